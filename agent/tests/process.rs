//! The process keeps its memory to itself. Alone in its program, because that is the whole process's.

use p2p_agent::run::process::protect_memory;
use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

#[test]
fn the_process_cannot_be_traced_and_dumps_no_core() {
    let before = dumpable_behavior().unwrap();
    assert_eq!(before, DumpableBehavior::Dumpable, "it was protected before: this proves nothing");
    protect_memory().unwrap();
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    let core = getrlimit(Resource::Core);
    assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
}
