//! Users and groups of the host, from `/etc/passwd` and `/etc/group`.
//!
//! Network directories are not asked: who a job runs as must not depend on an answer from elsewhere.

use std::fs;
use std::io;

use super::table::MAX_GROUPS;
pub(crate) use crate::program::User;

/// The user that this process runs as.
pub(crate) fn current() -> User {
    let groups = rustix::process::getgroups().unwrap_or_default();
    User {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
    }
}

/// A user by name; `None` when there is none. One in more groups than a start sets is an error: the first of them would be
/// another user.
pub(crate) fn by_name(name: &str) -> io::Result<Option<User>> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    let group = fs::read_to_string("/etc/group")?;
    find(&passwd, &group, name).map(with_all_groups).transpose()
}

fn with_all_groups(user: User) -> io::Result<User> {
    if user.groups.len() > MAX_GROUPS {
        let why = format!("it is in more than {MAX_GROUPS} groups; name a user in fewer");
        return Err(io::Error::other(why));
    }
    Ok(user)
}

/// The same user with another group in place of its own; `None` when there is none of this name.
pub(crate) fn in_group(user: User, name: &str) -> io::Result<Option<User>> {
    let Some(gid) = gid_of(name)? else {
        return Ok(None);
    };
    with_all_groups(with_group(user, gid)).map(Some)
}

fn with_group(user: User, gid: u32) -> User {
    let others = user.groups.into_iter().filter(|g| *g != user.gid && *g != gid);
    let groups = std::iter::once(gid).chain(others).collect();
    User { gid, groups, ..user }
}

/// The number of a user.
pub(crate) fn uid_of(name: &str) -> io::Result<Option<u32>> {
    Ok(id_in(&fs::read_to_string("/etc/passwd")?, name))
}

/// The number of a group.
pub(crate) fn gid_of(name: &str) -> io::Result<Option<u32>> {
    Ok(id_in(&fs::read_to_string("/etc/group")?, name))
}

/// The third field of the line that begins with this name, in either file.
fn id_in(file: &str, name: &str) -> Option<u32> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        fields.nth(1)?.parse().ok()
    })
}

/// What a user is called.
pub(crate) fn name_of(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn find(passwd: &str, group: &str, name: &str) -> Option<User> {
    let (uid, gid) = passwd.lines().find_map(|line| {
        let mut f = line.split(':');
        (f.next()? == name).then_some(())?;
        let mut ids = f.skip(1);
        Some((ids.next()?.parse().ok()?, ids.next()?.parse().ok()?))
    })?;
    let mut groups = vec![gid];
    groups.extend(group.lines().filter_map(|line| {
        let mut f = line.split(':').skip(2);
        let id: u32 = f.next()?.parse().ok()?;
        let member = f.next()?.split(',').any(|m| m == name);
        (member && id != gid).then_some(id)
    }));
    Some(User { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::{User, find, with_all_groups, with_group};

    #[test]
    fn a_chosen_group_takes_the_place_of_the_users_own_and_of_no_other() {
        let user = User {
            uid: 33,
            gid: 34,
            groups: vec![34, 110, 5],
        };
        let other = with_group(user.clone(), 110);
        assert_eq!((other.uid, other.gid, other.groups), (33, 110, vec![110, 5]));
        let new = with_group(user, 7);
        assert_eq!((new.gid, new.groups), (7, vec![7, 110, 5]));
    }

    #[test]
    fn finds_a_user_with_its_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nweb:x:33:34:www:/var/www:/usr/sbin/nologin\n";
        let group = "root:x:0:\nwww:x:34:web\nssl:x:110:git,web\nother:x:5:webmaster\n";
        let user = find(passwd, group, "web").expect("web is there");
        assert_eq!((user.uid, user.gid, user.groups), (33, 34, vec![34, 110]));
        assert!(find(passwd, group, "we").is_none());
    }

    #[test]
    fn a_user_in_more_groups_than_can_be_set_is_refused() {
        let passwd = "web:x:33:34::/:/bin/sh\n";
        let in_groups = |count: u32| {
            let lines = (0..count).map(|n| format!("g{n}:x:{}:web\n", 1000 + n));
            with_all_groups(find(passwd, &lines.collect::<String>(), "web").expect("web is there"))
        };
        assert_eq!(in_groups(63).expect("64 with its own").groups.len(), 64);
        let refused = in_groups(64).expect_err("65");
        assert!(refused.to_string().contains("more than 64 groups"));
    }
}
