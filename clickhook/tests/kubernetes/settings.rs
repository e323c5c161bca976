//! The configuration that a pod gets, by its files and variables, passes `check-config`, and
//! fits its ports.

use std::{collections::BTreeMap, fs, net::SocketAddr, process::Command};

use serde_json::Value;

use crate::manifests::{ALL, Rendered, list, pod, text, title};

const BINARY: &str = env!("CARGO_BIN_EXE_clickhook");

/// Returns the variables of a container, in the way Kubernetes makes them. A secret's value
/// is a stand-in.
fn variables(rendered: &Rendered, workload: &Value) -> BTreeMap<String, String> {
    let container = &pod(workload)["containers"][0];
    let mut variables = BTreeMap::new();
    for source in list(&container["envFrom"]) {
        let map = rendered.find("ConfigMap", text(&source["configMapRef"]["name"])).unwrap();
        for (name, value) in map["data"].as_object().unwrap() {
            variables.insert(name.clone(), text(value).to_owned());
        }
    }
    for variable in list(&container["env"]) {
        let name = text(&variable["name"]);
        let from = &variable["valueFrom"];
        let value = if let Some(value) = variable["value"].as_str() {
            // Kubernetes leaves what is not set before as it is.
            variables.iter().fold(value.to_owned(), |value, (name, of)| value.replace(&format!("$({name})"), of))
        } else if from["fieldRef"]["fieldPath"] == "metadata.name" {
            format!("{}-0", text(&workload["metadata"]["name"]))
        } else {
            assert!(from["secretKeyRef"].is_object(), "{name}: {variable}");
            "0123456789abcdef".repeat(4)
        };
        assert!(!value.contains("$("), "{name}={value} names a variable that is not set before it");
        variables.insert(name.to_owned(), value);
    }
    variables
}

/// Returns the settings that a pod has, as `check-config` prints them.
pub(crate) fn settings_of(rendered: &Rendered, workload: &Value, more: &BTreeMap<String, String>) -> toml::Table {
    let name = format!("{}: {}", rendered.name, title(workload));
    let mut variables = variables(rendered, workload);
    let file = variables.remove("CLICKHOOK_CONFIG").unwrap();
    let mounts = list(&pod(workload)["containers"][0]["volumeMounts"]);
    let (folder, key) = file.rsplit_once('/').unwrap();
    let mount = mounts.iter().find(|mount| mount["mountPath"] == folder).unwrap();
    let volume = list(&pod(workload)["volumes"]).iter().find(|volume| volume["name"] == mount["name"]).unwrap();
    let map = rendered.find("ConfigMap", text(&volume["configMap"]["name"])).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(key);
    fs::write(&path, map["data"][key].as_str().unwrap_or_else(|| panic!("{name}: no file {key}"))).unwrap();
    let output = Command::new(BINARY)
        .args(["check-config", "--config"])
        .arg(&path)
        .env_clear()
        .envs(&variables)
        .envs(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

#[test]
fn whoever_asks_clickhouse_has_its_password_and_a_way_to_it() {
    for rendered in ALL.iter() {
        let policy = rendered.find("NetworkPolicy", "clickhouse").unwrap();
        let reach = &policy["spec"]["podSelector"]["matchExpressions"][0]["values"];
        for (kind, role) in
            [("StatefulSet", "control"), ("StatefulSet", "enricher"), ("StatefulSet", "warehouse"), ("Job", "migrate")]
        {
            let workload = rendered.find(kind, role).unwrap_or_else(|| panic!("{}: no {kind} {role}", rendered.name));
            let has_password = variables(rendered, workload).contains_key("CLICKHOOK_CLICKHOUSE_PASSWORD");
            assert!(has_password, "{}: {role} has no password", rendered.name);
            assert!(list(reach).iter().any(|value| value == role), "{}: {role} is kept from ClickHouse", rendered.name);
        }
    }
}

#[test]
fn every_pod_has_a_configuration_that_passes_and_fits_its_ports() {
    for rendered in ALL.iter() {
        for workload in rendered.roles() {
            let name = format!("{}: {}", rendered.name, title(workload));
            let settings = settings_of(rendered, workload, &BTreeMap::new());
            let ports = list(&pod(workload)["containers"][0]["ports"]);
            for port in ports {
                let (section, key) = match text(&port["name"]) {
                    "metrics" => ("metrics", "listen"),
                    "redirect" => ("ingest", "listen"),
                    "intake" => ("ingest", "intake_listen"),
                    "api" => ("control", "listen"),
                    other => panic!("{name}: a port {other}"),
                };
                let listens: SocketAddr = settings[section][key].as_str().unwrap().parse().unwrap();
                assert_eq!(port["containerPort"], listens.port(), "{name}: {section}.{key}");
                assert!(listens.ip().is_unspecified(), "{name}: {section}.{key} is not reached from outside the pod");
            }
            assert!(workload["kind"] == "Job" || !ports.is_empty(), "{name} has no ports");
            if workload["metadata"]["name"] == "ingest" {
                let data_dir = settings["ingest"]["data_dir"].as_str().unwrap();
                let mounts = list(&pod(workload)["containers"][0]["volumeMounts"]);
                assert!(mounts.iter().any(|mount| mount["mountPath"] == data_dir), "{name}: {data_dir} is no disk");
            }
        }
    }
}

#[test]
fn the_arguments_of_every_pod_are_a_command() {
    for rendered in ALL.iter() {
        for workload in rendered.roles() {
            let args = list(&pod(workload)["containers"][0]["args"]).iter().map(text);
            let output = Command::new(BINARY).args(args).arg("--help").output().unwrap();
            assert!(output.status.success(), "{}: {}", title(workload), String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn a_service_with_the_name_of_a_section_stops_no_role() {
    let rendered = &ALL[0];
    let workload = rendered.find("StatefulSet", "control").unwrap();
    let mut links = BTreeMap::new();
    for section in ["CONTROL", "INGEST", "KAFKA", "KAFKA_BOOTSTRAP", "CLICKHOUSE", "METRICS", "WEBHOOK"] {
        for (end, value) in [
            ("SERVICE_HOST", "10.96.0.7"),
            ("SERVICE_PORT", "80"),
            ("SERVICE_PORT_API", "80"),
            ("PORT", "tcp://10.96.0.7:80"),
            ("PORT_80_TCP", "tcp://10.96.0.7:80"),
            ("PORT_80_TCP_PROTO", "tcp"),
            ("PORT_80_TCP_PORT", "80"),
            ("PORT_80_TCP_ADDR", "10.96.0.7"),
        ] {
            links.insert(format!("CLICKHOOK_{section}_{end}"), value.to_owned());
        }
    }
    let with = settings_of(rendered, workload, &links);
    assert_eq!(with, settings_of(rendered, workload, &BTreeMap::new()));
}
