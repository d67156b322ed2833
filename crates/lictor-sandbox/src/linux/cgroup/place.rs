//! Where this process stands in each cgroup hierarchy, as a directory that can be reached.

use std::fs;
use std::path::{Path, PathBuf};

/// This process's own cgroups.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    mounts: Vec<Mount>,
    /// Lines of `/proc/self/cgroup`: controllers (none for version 2), path.
    memberships: Vec<(String, String)>,
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: String,
    point: String,
    /// Of version 1; none for version 2.
    controllers: Option<String>,
}

impl Places {
    pub(super) fn look() -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        Self::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    fn parse(mounts: &str, cgroups: &str) -> Self {
        let memberships = cgroups.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            Some((controllers.to_owned(), path.to_owned()))
        });
        Self {
            mounts: mounts.lines().filter_map(mount).collect(),
            memberships: memberships.collect(),
        }
    }

    /// In the hierarchy of version 2.
    pub(super) fn unified(&self) -> Option<PathBuf> {
        let mount = self.mounts.iter().find(|m| m.controllers.is_none())?;
        let path = self.memberships.iter().find(|(c, _)| c.is_empty())?;
        below(mount, &path.1)
    }

    /// In the hierarchy of version 1 that has this controller.
    pub(super) fn legacy(&self, controller: &str) -> Option<PathBuf> {
        let has = |list: &str| list.split(',').any(|c| c == controller);
        let mut mounts = self.mounts.iter();
        let mount = mounts.find(|m| m.controllers.as_deref().is_some_and(has))?;
        let path = self.memberships.iter().find(|(c, _)| has(c))?;
        below(mount, &path.1)
    }
}

fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (root, point) = (left.nth(3)?, left.next()?);
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let controllers = match kind {
        "cgroup2" => None,
        "cgroup" => Some(options.to_owned()),
        _ => return None,
    };
    Some(Mount {
        root: root.to_owned(),
        point: point.to_owned(),
        controllers,
    })
}

/// Nothing when the mount shows another part of the hierarchy.
fn below(mount: &Mount, path: &str) -> Option<PathBuf> {
    let below = Path::new(path).strip_prefix(&mount.root).ok()?;
    Some(Path::new(&mount.point).join(below))
}

#[cfg(test)]
mod tests {
    use super::Places;
    use std::path::Path;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const MEMBER: &str = "4:memory:/docker/1/x\n3:cpuset:/\n2:cpu,cpuacct:/jobs\n1:name=systemd:/\n0::/a/b\n";

    #[test]
    fn finds_the_own_cgroup_in_each_hierarchy() {
        let places = Places::parse(HYBRID, MEMBER);
        let unified = places.unified();
        assert_eq!(unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified/a/b")));
        let legacy = |c| places.legacy(c);
        assert_eq!(
            legacy("cpu").as_deref(),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/jobs"))
        );
        assert_eq!(
            legacy("memory").as_deref(),
            Some(Path::new("/sys/fs/cgroup/memory/x"))
        );
        assert_eq!(legacy("cpuset"), None, "not mounted");
        assert_eq!(legacy("systemd"), None, "no controller");
    }

    #[test]
    fn an_own_cgroup_that_no_mount_shows_is_not_used() {
        let places = Places::parse(HYBRID, "4:memory:/elsewhere\n");
        assert_eq!(places.legacy("memory"), None);
        assert_eq!(places.unified(), None);
    }
}
