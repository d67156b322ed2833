//! What of the host every sandbox shows read-only, besides what its profile names.

/// Programs and their libraries.
pub(super) const SHOWN: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What of `/etc` programs need in order to find libraries, names, certificates and each other.
pub(super) const ETC: [&str; 16] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/host.conf",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// Users, groups and hosts as they are inside.
pub(super) const PASSWD: &[u8] = b"root:x:0:0:root:/:/usr/sbin/nologin\nlictor:x:1000:1000::/workspace:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n";
pub(super) const GROUP: &[u8] = b"root:x:0:\nlictor:x:1000:\nnogroup:x:65534:\n";
pub(super) const HOSTS: &[u8] = b"127.0.0.1 localhost sandbox\n::1 localhost\n";

/// The user inside.
pub(super) const INSIDE: &str = "1000";

/// How a path of the host is shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum How {
    /// By the same link, which costs no mount.
    Link(String),
    /// By a mount of what it leads to.
    Mount,
}

/// As it is on the host: a link as a link, what is not there not at all.
pub(super) fn how(path: &str) -> Option<How> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    let target = std::fs::read_link(path).unwrap_or_default();
    Some(match target.to_str() {
        Some(target) if meta.is_symlink() && stays_in_usr(path, target) => How::Link(target.to_owned()),
        _ => How::Mount,
    })
}

/// Whether a link's target is below `/usr`, which is always shown, without further links on the way up.
fn stays_in_usr(path: &str, target: &str) -> bool {
    let up = path.matches('/').count() - 1;
    let from_root = "../".repeat(up) + "usr/";
    target.starts_with("/usr/") || target.starts_with(&from_root)
}

#[cfg(test)]
mod tests {
    use super::stays_in_usr;

    #[test]
    fn only_links_into_usr_stay_links() {
        assert!(stays_in_usr("/bin", "usr/bin"));
        assert!(stays_in_usr("/etc/os-release", "../usr/lib/os-release"));
        assert!(stays_in_usr("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC"));
        assert!(!stays_in_usr("/etc/localtime", "/var/lib/zone"));
        assert!(!stays_in_usr("/etc/os-release", "usr/lib/os-release"));
    }
}
