//! Who may act for this node through the local API: every user may read; the agent's own user, root, and the users that the operator
//! named may do what spends this node's funds or casts its vote.

use std::{collections::BTreeSet, fs, io, path::Path, str::FromStr};

use super::caller::Caller;

/// Where the system's groups are.
const GROUP_FILE: &str = "/etc/group";
/// What the kernel shows in place of every id that this process's user namespace does not have; Debian's `nobody` and `nogroup` too.
const OVERFLOW_ID: u32 = 65_534;
/// No id: what system calls take for "unchanged".
const NO_ID: u32 = u32::MAX;

/// The users and groups that the operator lets act, besides root and the agent's own user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    own_user: u32,
    group: Option<u32>,
    users: BTreeSet<u32>,
}

impl Access {
    /// Root, `own_user` (the agent's own), the members of `group` and `users`. All are ids of this process's user namespace.
    #[must_use]
    pub fn new(own_user: u32, group: Option<u32>, users: impl IntoIterator<Item = u32>) -> Self {
        Self { own_user, group, users: users.into_iter().collect() }
    }

    /// Whether that caller may act for this node.
    pub(super) fn may_act(&self, caller: &Caller) -> bool {
        caller.user == 0
            || caller.user == self.own_user
            || self.users.contains(&caller.user)
            || self.group.is_some_and(|group| caller.groups.contains(&group))
    }
}

/// One user by number, as `--allow-vote-uid` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserId(pub u32);

/// A group by name or number, as `--api-group` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// Its number.
    Id(u32),
    /// Its name in /etc/group.
    Name(String),
}

/// There is no such group, or it cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Not in the file.
    #[error(
        "`--api-group {0}`: {GROUP_FILE} has no such group\nhint: make it with `groupadd --system {0}`, or give its number"
    )]
    Unknown(String),
    /// Its number stands for more than that group.
    #[error(
        "`--api-group {name}`: {reason}\nhint: make a group for the users that may act, as with `groupadd --system p2p-agent`"
    )]
    Unfit {
        /// The group's name.
        name: String,
        /// What is wrong with its number.
        reason: String,
    },
    /// The file cannot be read.
    #[error("`--api-group {name}`: cannot read {GROUP_FILE}: {source}\nhint: give the group's number")]
    Io {
        /// The group's name.
        name: String,
        /// The system's.
        source: io::Error,
    },
}

impl FromStr for UserId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        id(text, "user").map(Self)
    }
}

impl FromStr for Group {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return id(text, "group").map(Self::Id);
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let is_name = (1..=32).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(legal);
        if is_name { Ok(Self::Name(text.to_owned())) } else { Err("expected a group's name or number".to_owned()) }
    }
}

impl Group {
    /// Its number, from the system's file where a name was given.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub fn resolve(&self) -> Result<u32, GroupError> {
        let name = match self {
            Self::Id(id) => return Ok(*id),
            Self::Name(name) => name,
        };
        let file = fs::read_to_string(Path::new(GROUP_FILE));
        let text = file.map_err(|source| GroupError::Io { name: name.clone(), source })?;
        let number = find(&text, name).ok_or_else(|| GroupError::Unknown(name.clone()))?;
        id(number, "group").map_err(|reason| GroupError::Unfit { name: name.clone(), reason })
    }
}

/// A line of group(5) is `name:password:number:members`.
fn find<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1))?
    })
}

fn id(text: &str, kind: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(NO_ID) | Err(_) => Err(format!("expected the number of a {kind}")),
        Ok(OVERFLOW_ID) => Err(format!(
            "{OVERFLOW_ID} is `nobody`, and what every {kind} of another user namespace looks like; give the application a {kind} of its own"
        )),
        Ok(id) => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: u32, groups: &[u32]) -> Caller {
        Caller { user, groups: groups.to_vec() }
    }

    #[test]
    fn only_the_owner_root_and_the_named_may_act() {
        let closed = Access::new(500, None, []);
        assert!(closed.may_act(&caller(0, &[0])) && closed.may_act(&caller(500, &[500])));
        // Root's group is not root.
        assert!(!closed.may_act(&caller(1000, &[0, 500, 27])));
        let open = Access::new(500, Some(27), [10_001]);
        for (user, groups, may) in [
            (1000, &[27][..], true),
            (1000, &[5, 27], true),
            (10_001, &[], true),
            (1000, &[10_001], false),
            (27, &[], false),
        ] {
            assert_eq!(open.may_act(&caller(user, groups)), may, "{user} {groups:?}");
        }
    }

    #[test]
    fn ids_that_stand_for_all_users_or_for_none_are_refused() {
        assert_eq!("10001".parse(), Ok(UserId(10_001)));
        assert_eq!("27".parse(), Ok(Group::Id(27)));
        assert_eq!("p2p-agent".parse(), Ok(Group::Name("p2p-agent".to_owned())));
        for bad in ["65534", "4294967295", "-1", "", "1.5", "99999999999"] {
            assert!(bad.parse::<UserId>().is_err() && bad.parse::<Group>().is_err(), "{bad}");
        }
        assert!("root".parse::<UserId>().is_err());
        for bad in ["a:b", "a b", "-a", "27x"] {
            assert!(bad.parse::<Group>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let text = "root:x:0:\n# sudo:x:1:\nsudoers:x:28:\nsudo:x:27:alice,bob\nbroken\nbroken2:x\n";
        assert_eq!(find(text, "sudo"), Some("27"));
        assert_eq!(find(text, "root"), Some("0"));
        for none in ["sud", "broken", "broken2", "alice", ""] {
            assert_eq!(find(text, none), None, "{none}");
        }
        let error = Group::Name("no-such-group".to_owned()).resolve().unwrap_err().to_string();
        assert!(error.contains("--api-group no-such-group") && error.contains("groupadd"), "{error}");
        assert_eq!(Group::Id(27).resolve().unwrap(), 27);
        assert_eq!(Group::Name("root".to_owned()).resolve().unwrap(), 0);
    }
}
