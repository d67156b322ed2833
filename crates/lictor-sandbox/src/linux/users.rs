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

/// A user by name; `None` when there is none.
pub(crate) fn by_name(name: &str) -> io::Result<Option<User>> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    let group = fs::read_to_string("/etc/group")?;
    Ok(find(&passwd, &group, name))
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
    groups.truncate(MAX_GROUPS);
    Some(User { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn finds_a_user_with_its_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nweb:x:33:34:www:/var/www:/usr/sbin/nologin\n";
        let group = "root:x:0:\nwww:x:34:web\nssl:x:110:git,web\nother:x:5:webmaster\n";
        let user = find(passwd, group, "web").expect("web is there");
        assert_eq!((user.uid, user.gid, user.groups), (33, 34, vec![34, 110]));
        assert!(find(passwd, group, "we").is_none());
    }
}
