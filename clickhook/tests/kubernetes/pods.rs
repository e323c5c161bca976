//! The rules for every pod: it needs no rights, has limits, says how it is, and ends in time.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    manifests::{ALL, Rendered, list, pod, text, title},
    settings::settings_of,
};

/// The seconds that a redirector waits for Kafka once its connections have ended.
const LAST_WAIT_S: u64 = 10;

fn each_pod(check: impl Fn(&Rendered, &str, &Value, &Value)) {
    for rendered in ALL.iter() {
        for workload in rendered.workloads() {
            let name = format!("{}: {}", rendered.name, title(workload));
            for container in list(&pod(workload)["containers"]) {
                check(rendered, &name, workload, container);
            }
            assert!(pod(workload)["initContainers"].is_null(), "{name}: the rules do not look at those");
        }
    }
}

#[test]
fn no_pod_has_rights_that_it_does_not_need() {
    each_pod(|_, name, workload, container| {
        let pod = pod(workload);
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        assert_eq!(pod["enableServiceLinks"], false, "{name}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert!(pod["securityContext"]["runAsUser"].as_u64().is_some_and(|user| user > 0), "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for host in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[host].is_null(), "{name} {host}");
        }
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{name}");
        if container["name"] == "clickhook" {
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
        }
        assert!(list(&pod["volumes"]).iter().all(|volume| volume["hostPath"].is_null()), "{name}");
    });
    for rendered in ALL.iter() {
        let namespace = rendered.find("Namespace", "clickhook").unwrap();
        assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    }
}

#[test]
fn every_pod_has_limits_and_a_version() {
    each_pod(|_, name, _, container| {
        for (kind, resource) in [("requests", "cpu"), ("requests", "memory"), ("limits", "cpu"), ("limits", "memory")] {
            assert!(container["resources"][kind][resource].is_string(), "{name}: {kind} of {resource}");
        }
        let image = text(&container["image"]);
        let tag = image.rsplit_once(':').map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| tag != "latest" && !tag.is_empty()), "{name}: {image}");
        let registry = image.split_once('/').map(|(first, _)| first);
        assert!(registry.is_none_or(|first| !first.contains('.')), "{name}: {image} names a registry");
    });
}

#[test]
fn every_pod_that_serves_says_how_it_is() {
    each_pod(|_, name, workload, container| {
        if workload["kind"] == "Job" {
            return;
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert!(container[probe].is_object(), "{name} {probe}");
        }
        if container["name"] != "clickhook" {
            return;
        }
        assert_eq!(container["startupProbe"]["httpGet"], json!({"path": "/healthz", "port": "metrics"}), "{name}");
        // Readiness in its place would restart what waits for Kafka or ClickHouse.
        assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/healthz", "port": "metrics"}), "{name}");
        assert_eq!(container["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": "metrics"}), "{name}");
    });
}

#[test]
fn every_pod_has_the_time_to_drain() {
    for rendered in ALL.iter() {
        for workload in rendered.roles().filter(|workload| workload["kind"] == "StatefulSet") {
            let name = format!("{}: {}", rendered.name, title(workload));
            let settings = settings_of(rendered, workload, &BTreeMap::new());
            let ms = |section: &str, key: &str| u64::try_from(settings[section][key].as_integer().unwrap()).unwrap();
            let needed_ms = match text(&workload["metadata"]["name"]) {
                "ingest" => {
                    ["drain_delay_ms", "drain_timeout_ms", "drain_spool_ms"]
                        .map(|key| ms("ingest", key))
                        .iter()
                        .sum::<u64>()
                        + LAST_WAIT_S * 1000
                }
                "webhook" => ms("webhook", "drain_ms"),
                "warehouse" => 2 * ms("clickhouse", "insert_timeout_ms") + 4 * ms("clickhouse", "query_timeout_ms"),
                "control" | "enricher" => 10_000,
                other => panic!("{other}: how long does it drain?"),
            };
            let lifecycle = &pod(workload)["containers"][0]["lifecycle"];
            let before_s = lifecycle["preStop"]["sleep"]["seconds"].as_u64().unwrap_or_default();
            let grace_s = pod(workload)["terminationGracePeriodSeconds"].as_u64().unwrap();
            let needed_s = before_s + needed_ms.div_ceil(1000) + 10;
            assert!(grace_s >= needed_s, "{name}: {grace_s} s, but draining takes up to {needed_s} s");
        }
    }
}
