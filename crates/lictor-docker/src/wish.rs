//! A container in the daemon's words: the least that it can be.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, RestartPolicy, RestartPolicyNameEnum,
};
use lictor_sandbox::Wanted;

/// Labels: which node has asked for it, which process of its agent, and where its files lie.
pub(super) const NODE: &str = "lictor.node";
const AGENT: &str = "lictor.agent";
pub(super) const BUNDLE: &str = "lictor.bundle";

pub(super) fn of(wanted: &Wanted, image: &str) -> ContainerCreateBody {
    let (user, group) = wanted.user;
    let labels = [
        (NODE, &wanted.node),
        (AGENT, &wanted.agent),
        (BUNDLE, &wanted.bundle),
    ];
    ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(wanted.first.clone()),
        cmd: Some(Vec::new()),
        user: Some(format!("{user}:{group}")),
        working_dir: Some("/".to_owned()),
        hostname: Some("sandbox".to_owned()),
        env: Some(Vec::new()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.clone())).into()),
        network_disabled: Some(true),
        // It knows no other; without this a daemon that is stopped waits for ten seconds.
        stop_signal: Some("SIGKILL".to_owned()),
        healthcheck: Some(HealthConfig {
            test: texts(&["NONE"]),
            ..HealthConfig::default()
        }),
        host_config: Some(around(wanted)),
        ..ContainerCreateBody::default()
    }
}

fn around(wanted: &Wanted) -> HostConfig {
    HostConfig {
        mounts: Some(vec![Mount {
            typ: Some(MountType::BIND),
            source: Some(wanted.own.clone()),
            target: Some(wanted.at.clone()),
            read_only: Some(true),
            bind_options: Some(MountBindOptions {
                propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
                ..MountBindOptions::default()
            }),
            ..Mount::default()
        }]),
        readonly_rootfs: Some(true),
        cap_drop: texts(&["ALL"]),
        // The label would keep the first process from its own file, which lies where the agent's do.
        security_opt: texts(&["no-new-privileges", "label=disable"]),
        privileged: Some(false),
        // Ours has to be the first one.
        init: Some(false),
        network_mode: Some("none".to_owned()),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        // A job's users are made by the agent.
        userns_mode: Some("host".to_owned()),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(true),
        sysctls: Some(HashMap::new()),
        ..HostConfig::default()
    }
}

fn texts(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|s| (*s).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_nothing_but_the_agents_directory_and_no_privilege() {
        let wanted = Wanted {
            name: "lictor-1".to_owned(),
            node: "n".to_owned(),
            agent: "1.2.0".to_owned(),
            bundle: "/run/lictor/1.2.0/0".to_owned(),
            own: "/run/lictor/1.2.0/0/own".to_owned(),
            at: "/.lictor".to_owned(),
            first: vec!["/.lictor/init".to_owned()],
            user: (7, 7),
        };
        let asked = of(&wanted, "sha256:00");
        assert_eq!(asked.image.as_deref(), Some("sha256:00"));
        let around = asked.host_config.expect("its surroundings");
        let shown: Vec<_> = around
            .mounts
            .into_iter()
            .flatten()
            .filter_map(|m| m.source)
            .collect();
        assert_eq!((shown, around.binds), (vec![wanted.own], None));
        assert_eq!(around.cap_drop, texts(&["ALL"]));
        assert!(
            around
                .security_opt
                .is_some_and(|o| o.contains(&"no-new-privileges".to_owned()))
        );
        assert_eq!(
            (around.readonly_rootfs, around.privileged),
            (Some(true), Some(false))
        );
        assert_eq!(around.network_mode.as_deref(), Some("none"));
    }
}
