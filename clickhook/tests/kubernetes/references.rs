//! Every name that an object gives is that of an object that exists: maps, secrets and their
//! keys, volumes, services, ports, selectors, routes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    documentation,
    manifests::{ALL, Rendered, list, pod, text, title},
};

fn matches(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().or_else(|| {
        let is_plain = selector["matchExpressions"].is_null() && selector["matchLabels"].is_null();
        selector.as_object().filter(|_| is_plain)
    });
    let fits = exact.is_none_or(|pairs| pairs.iter().all(|(key, value)| labels[key] == *value));
    fits && list(&selector["matchExpressions"]).iter().all(|expression| {
        assert_eq!(expression["operator"], "In");
        list(&expression["values"]).contains(&labels[text(&expression["key"])])
    })
}

/// Returns the workloads whose pods a selector selects.
fn selected<'a>(rendered: &'a Rendered, selector: &Value) -> Vec<&'a Value> {
    rendered
        .workloads()
        .filter(|workload| matches(selector, &workload["spec"]["template"]["metadata"]["labels"]))
        .collect()
}

fn has_port(workload: &Value, port: &Value) -> bool {
    let ports = list(&pod(workload)["containers"][0]["ports"]);
    ports.iter().any(|own| own["name"] == *port || own["containerPort"] == *port)
}

/// Returns the keys of each secret that an overlay makes, or that the documentation makes
/// before it.
fn secrets(rendered: &Rendered) -> BTreeMap<String, Vec<String>> {
    let mut secrets = documentation::secrets();
    for secret in rendered.of("ExternalSecret") {
        let keys = list(&secret["spec"]["data"]).iter().map(|entry| text(&entry["secretKey"]).to_owned()).collect();
        secrets.insert(text(&secret["spec"]["target"]["name"]).to_owned(), keys);
    }
    secrets
}

#[test]
fn what_a_pod_is_given_exists() {
    for rendered in ALL.iter() {
        let secrets = secrets(rendered);
        for workload in rendered.workloads() {
            let name = format!("{}: {}", rendered.name, title(workload));
            let pod = pod(workload);
            if let Some(account) = pod["serviceAccountName"].as_str() {
                assert!(rendered.find("ServiceAccount", account).is_some(), "{name}: {account}");
            }
            if let Some(class) = pod["priorityClassName"].as_str() {
                assert!(rendered.find("PriorityClass", class).is_some(), "{name}: {class}");
            }
            for container in list(&pod["containers"]) {
                for source in list(&container["envFrom"]) {
                    let map = text(&source["configMapRef"]["name"]);
                    assert!(rendered.find("ConfigMap", map).is_some(), "{name}: {map}");
                }
                for variable in list(&container["env"]) {
                    let wanted = &variable["valueFrom"]["secretKeyRef"];
                    let key = text(&wanted["key"]).to_owned();
                    let has = secrets.get(text(&wanted["name"])).is_some_and(|keys| keys.contains(&key));
                    assert!(wanted.is_null() || has, "{name}: {wanted}");
                }
                for mount in list(&container["volumeMounts"]) {
                    let volumes = list(&pod["volumes"]).iter().map(|volume| &volume["name"]);
                    let claims = list(&workload["spec"]["volumeClaimTemplates"]);
                    let mut all = volumes.chain(claims.iter().map(|claim| &claim["metadata"]["name"]));
                    assert!(all.any(|volume| *volume == mount["name"]), "{name}: {mount}");
                }
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    for way in ["httpGet", "tcpSocket"] {
                        let port = &container[probe][way]["port"];
                        assert!(port.is_null() || has_port(workload, port), "{name}: {port}");
                    }
                }
            }
            for volume in list(&pod["volumes"]) {
                let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() else { continue };
                let is_of_a_set = rendered.of("StatefulSet").any(|set| {
                    let set_name = text(&set["metadata"]["name"]);
                    list(&set["spec"]["volumeClaimTemplates"]).iter().any(|template| {
                        claim.starts_with(&format!("{}-{set_name}-", text(&template["metadata"]["name"])))
                    })
                });
                assert!(is_of_a_set, "{name}: {claim}");
            }
            if let Some(service) = workload["spec"]["serviceName"].as_str() {
                assert!(rendered.find("Service", service).is_some(), "{name}: {service}");
            }
        }
    }
}

#[test]
fn what_selects_pods_finds_pods_with_its_ports() {
    for rendered in ALL.iter() {
        for service in rendered.of("Service") {
            let name = format!("{}: {}", rendered.name, title(service));
            let pods = selected(rendered, &service["spec"]["selector"]);
            assert!(!pods.is_empty(), "{name} has no pods");
            for port in list(&service["spec"]["ports"]) {
                let serving = pods.iter().filter(|workload| workload["kind"] != "Job");
                for workload in serving {
                    assert!(has_port(workload, &port["targetPort"]), "{name}: {} lacks {port}", title(workload));
                }
            }
        }
        for budget in rendered.of("PodDisruptionBudget") {
            assert_eq!(selected(rendered, &budget["spec"]["selector"]).len(), 1, "{}", title(budget));
        }
        for role in rendered.roles().filter(|role| role["kind"] == "StatefulSet") {
            let budget = rendered.find("PodDisruptionBudget", text(&role["metadata"]["name"]));
            assert!(budget.is_some(), "{} has no budget", title(role));
        }
        for monitor in rendered.of("PodMonitor") {
            let pods = selected(rendered, &monitor["spec"]["selector"]);
            for role in rendered.roles().filter(|role| role["kind"] == "StatefulSet") {
                assert!(pods.contains(&role), "{} is not monitored", title(role));
            }
            for endpoint in list(&monitor["spec"]["podMetricsEndpoints"]) {
                assert!(pods.iter().any(|workload| has_port(workload, &endpoint["port"])), "{endpoint}");
            }
        }
    }
}

#[test]
fn network_policies_name_pods_and_ports_that_exist() {
    for rendered in ALL.iter() {
        for policy in rendered.of("NetworkPolicy") {
            let name = format!("{}: {}", rendered.name, title(policy));
            let spec = &policy["spec"];
            let pods = selected(rendered, &spec["podSelector"]);
            assert!(!pods.is_empty(), "{name} is about no pod");
            for rule in list(&spec["ingress"]) {
                for port in list(&rule["ports"]) {
                    assert!(pods.iter().any(|workload| has_port(workload, &port["port"])), "{name}: {port}");
                }
            }
            for rule in list(&spec["ingress"]).iter().chain(list(&spec["egress"])) {
                for peer in list(&rule["from"]).iter().chain(list(&rule["to"])) {
                    // `clickhook listen`, which a person runs.
                    let is_listen = peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "listen";
                    let finds = peer["podSelector"].is_null() || !selected(rendered, &peer["podSelector"]).is_empty();
                    assert!(finds || is_listen, "{name}: {peer}");
                }
            }
        }
        for workload in rendered.workloads() {
            let labels = &workload["spec"]["template"]["metadata"]["labels"];
            for direction in ["Ingress", "Egress"] {
                let mut policies = rendered.of("NetworkPolicy");
                let is_held = policies.any(|policy| {
                    let types = list(&policy["spec"]["policyTypes"]);
                    matches(&policy["spec"]["podSelector"], labels) && types.iter().any(|kind| kind == direction)
                });
                assert!(is_held, "{}: {} has free {direction}", rendered.name, title(workload));
            }
        }
    }
}

#[test]
fn routes_lead_from_a_listener_to_a_service() {
    for rendered in ALL.iter() {
        for route in rendered.of("HTTPRoute") {
            for parent in list(&route["spec"]["parentRefs"]) {
                let gateway = rendered.find("Gateway", text(&parent["name"])).unwrap();
                let mut listeners = list(&gateway["spec"]["listeners"]).iter();
                assert!(listeners.any(|listener| listener["name"] == parent["sectionName"]), "{parent}");
            }
            for backend in list(&route["spec"]["rules"]).iter().flat_map(|rule| list(&rule["backendRefs"])) {
                let service = rendered.find("Service", text(&backend["name"])).unwrap();
                assert!(
                    list(&service["spec"]["ports"]).iter().any(|port| port["port"] == backend["port"]),
                    "{backend}"
                );
            }
        }
        for gateway in rendered.of("Gateway") {
            let issuer = text(&gateway["metadata"]["annotations"]["cert-manager.io/issuer"]);
            assert!(rendered.find("Issuer", issuer).is_some(), "{issuer}");
        }
        for secret in rendered.of("ExternalSecret") {
            assert!(rendered.find("SecretStore", text(&secret["spec"]["secretStoreRef"]["name"])).is_some());
        }
    }
}

#[test]
fn addresses_inside_the_cluster_are_those_of_services() {
    for rendered in ALL.iter() {
        for map in rendered.of("ConfigMap") {
            for (key, value) in map["data"].as_object().unwrap() {
                let addresses = ["CLICKHOOK_KAFKA_BROKERS", "CLICKHOOK_CLICKHOUSE_URL"];
                if !addresses.contains(&key.as_str()) || text(value).contains(".example.com") {
                    continue;
                }
                let address = text(value).trim_start_matches("http://");
                let (host, port) = address.split_once(':').unwrap();
                // The operators of `everything` make these.
                let of_operator = [("Kafka", "-kafka-bootstrap"), ("ClickHouseInstallation", "")];
                let is_of_operator = of_operator.into_iter().any(|(kind, end)| {
                    let bare = host.trim_start_matches("clickhouse-").trim_end_matches(end);
                    bare != host && rendered.find(kind, bare).is_some()
                });
                let service = rendered.find("Service", host);
                let has = service.is_some_and(|service| {
                    list(&service["spec"]["ports"]).iter().any(|own| own["port"].as_u64() == port.parse().ok())
                });
                assert!(has || is_of_operator, "{}: {key}={}", rendered.name, text(value));
            }
        }
    }
}
