//! What is written arrives, whatever the link does.

use std::task::Waker;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use super::wire::{Faults, World};

/// A connection from the first stack to a listener of the second.
pub(super) fn connected(world: &mut World) -> [SocketHandle; 2] {
    if let Err(error) = world.stacks[1].listen(6379) {
        assert_eq!(error, crate::NetError::PortTaken(6379));
    }
    let to = "10.0.1.3:6379".parse().unwrap();
    let handle = world.stacks[0].connect(to, world.now).unwrap();
    let mut accepted = None;
    let until = world.now + Duration::from_secs(10);
    let both = world.run(until, |[one, other], now| {
        accepted = accepted.or_else(|| other.accept(6379, Waker::noop()).map(|accepted| accepted.unwrap().0));
        accepted.is_some() && one.opened(handle, to, now) == Some(Ok(()))
    });
    assert!(both, "no connection within 10 s");
    [handle, accepted.unwrap()]
}

fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

/// Sends so many bytes from the stack `from` to the other. Returns how long it took, and the longest time without any progress.
fn transfer(world: &mut World, handles: [SocketHandle; 2], from: usize, bytes: usize) -> (Duration, Duration) {
    let (mut sent, mut received) = (0, 0);
    let (start, mut progress, mut pause) = (world.now, world.now, Duration::ZERO);
    let done = world.run(start + Duration::from_secs(300), |stacks, now| {
        let sender = stacks[from].socket(handles[from]);
        while sent < bytes {
            let chunk: Vec<u8> = (sent..bytes.min(sent + 65_536)).map(byte).collect();
            match sender.send_slice(&chunk) {
                Ok(0) => break,
                taken => sent += taken.unwrap(),
            }
        }
        stacks[from].send(now);
        let receiver = stacks[1 - from].socket(handles[1 - from]);
        let mut buffer = [0; 65_536];
        while let len @ 1.. = receiver.recv_slice(&mut buffer).unwrap() {
            assert!(buffer[..len].iter().enumerate().all(|(at, found)| *found == byte(received + at)));
            received += len;
            pause = pause.max(now - progress);
            progress = now;
        }
        stacks[1 - from].send(now);
        received == bytes
    });
    assert!(done, "{received} of {bytes} bytes");
    (world.now - start, pause)
}

#[test]
fn a_good_link_carries_what_its_window_allows() {
    let mut world = World::new(Faults::NONE);
    let handles = connected(&mut world);
    let (time, pause) = transfer(&mut world, handles, 0, 20 << 20);
    // A window of 1 MiB for each 20 ms, and its growth before.
    assert!(time < Duration::from_millis(1500), "{time:?}");
    assert!(pause < Duration::from_millis(50), "{pause:?}");
}

#[test]
fn losses_doubles_and_late_packets_change_nothing_and_stop_nothing() {
    for from in [0, 1] {
        let mut world = World::new(Faults { lost: 200, doubled: 100, late: 200 });
        let handles = connected(&mut world);
        let (time, pause) = transfer(&mut world, handles, from, 4 << 20);
        assert!(pause < Duration::from_secs(1), "{pause:?}");
        assert!(time < Duration::from_secs(20), "{time:?}");
    }
}

#[test]
fn each_half_is_closed_by_itself() {
    let mut world = World::new(Faults::NONE);
    let [one, other] = connected(&mut world);
    world.stacks[0].socket(one).send_slice(b"question").unwrap();
    world.stacks[0].socket(one).close();
    let mut heard = Vec::new();
    let mut buffer = [0; 100];
    let later = world.now + Duration::from_secs(5);
    assert!(world.run(later, |[_, stack], _| {
        let socket = stack.socket(other);
        match socket.recv_slice(&mut buffer) {
            Ok(len) => heard.extend_from_slice(&buffer[..len]),
            Err(_) => return true,
        }
        false
    }));
    assert_eq!(heard, b"question");
    assert_eq!(world.stacks[1].socket(other).state(), State::CloseWait);
    let now = world.now;
    world.stacks[1].socket(other).send_slice(b"answer").unwrap();
    world.stacks[1].let_go(other, false, now);
    let mut len = 0;
    assert!(world.run(later, |[stack, _], _| {
        len = stack.socket(one).recv_slice(&mut buffer).unwrap_or(len);
        len > 0
    }));
    assert_eq!(&buffer[..len], b"answer");
    let now = world.now;
    world.stacks[0].let_go(one, false, now);
    world.run(later, |[one, other], _| one.connections() + other.connections() == 0);
    assert_eq!(world.stacks[0].connections() + world.stacks[1].connections(), 0);
}

/// What the program does not read, the peer does not send for ever: its own program has to wait.
#[test]
fn a_program_that_does_not_read_holds_up_the_other() {
    let mut world = World::new(Faults::NONE);
    let [one, other] = connected(&mut world);
    let mut sent = 0;
    world.run(Duration::from_secs(20), |[stack, _], now| {
        while let len @ 1.. = stack.socket(one).send_slice(&[1; 65_536]).unwrap() {
            sent += len;
        }
        stack.send(now);
        false
    });
    let room = |world: &mut World, index: usize, handle| world.stacks[index].socket(handle).recv_capacity();
    let both = room(&mut world, 0, one) + room(&mut world, 1, other);
    // The window is told in units.
    assert!((both - 64..=both).contains(&sent), "both buffers are full, and no more: {sent}");
    let mut read = 0;
    assert!(world.run(Duration::from_secs(60), |[_, stack], now| {
        while let len @ 1.. = stack.socket(other).recv_slice(&mut [0; 65_536]).unwrap() {
            read += len;
        }
        stack.send(now);
        read == sent
    }));
}
