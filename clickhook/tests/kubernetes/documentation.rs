//! The commands of docs/KUBERNETES.md: each is run as far as that needs no cluster, or what it
//! names is looked for.

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::Value;

use crate::manifests::{ALL, Rendered, kubectl, list, repository, text};

const BINARY: &str = env!("CARGO_BIN_EXE_clickhook");

/// Returns the blocks of a language, with the heading above each.
fn blocks(page: &str, language: &str) -> Vec<(String, String)> {
    let page = fs::read_to_string(repository().join("docs").join(page)).unwrap();
    let mut blocks = Vec::new();
    let (mut heading, mut open) = (String::new(), None::<String>);
    for line in page.lines() {
        match &mut open {
            Some(block) if line == "```" => {
                blocks.push((heading.clone(), std::mem::take(block)));
                open = None;
            }
            Some(block) => *block += &format!("{line}\n"),
            None if line == format!("```{language}") => open = Some(String::new()),
            None if line.starts_with("## ") => line[3..].clone_into(&mut heading),
            None => {}
        }
    }
    blocks
}

fn commands() -> Vec<(String, String)> {
    let blocks = blocks("KUBERNETES.md", "sh");
    let lines = blocks.iter().flat_map(|(heading, block)| block.lines().map(|line| (heading.clone(), line.to_owned())));
    lines.collect()
}

/// Returns the keys of the secrets that the commands make.
pub(crate) fn secrets() -> BTreeMap<String, Vec<String>> {
    let made = commands().into_iter().filter(|(_, line)| line.contains("create secret")).map(|(_, line)| {
        let line = line.replace("$(openssl rand -hex 32)", "x").replace("$(openssl rand -hex 16)", "x");
        assert!(!line.contains('$'), "{line}");
        let args: Vec<&str> = line.split(' ').skip(1).chain(["--dry-run=client", "-o", "json"]).collect();
        let secret: Value = serde_json::from_slice(&kubectl(&args).stdout).unwrap();
        let keys = secret["data"].as_object().unwrap().keys().cloned().collect();
        (text(&secret["metadata"]["name"]).to_owned(), keys)
    });
    made.collect()
}

fn overlay(heading: &str) -> &'static Rendered {
    let name = match heading {
        "From an empty namespace to a click" => "evaluation",
        // Production with the components that it does not have.
        "More and fewer pods" => "everything",
        _ => "production",
    };
    ALL.iter().find(|rendered| rendered.name == name).unwrap()
}

/// Checks a command of kubectl.
fn check_kubectl(rendered: &Rendered, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let words = match words[..] {
        ["kubectl", "-n", namespace, ..] => {
            assert!(rendered.find("Namespace", namespace).is_some(), "{line}");
            &words[3..]
        }
        _ => &words[1..],
    };
    let find = |named: &str| {
        let (kind, name) = named.split_once('/').unwrap();
        let kind = match kind {
            "statefulset" => "StatefulSet",
            "service" => "Service",
            "job" => "Job",
            other => panic!("{line}: {other}"),
        };
        rendered.find(kind, name).unwrap_or_else(|| panic!("{line}: {named} does not exist"))
    };
    match words {
        ["apply", "-k", path] => assert_eq!(*path, format!("k8s/overlays/{}", rendered.name)),
        ["apply", "-f", path] => assert!(repository().join(path).exists(), "{line}"),
        ["create", "secret", ..] => assert!(!secrets().is_empty()),
        ["wait", job, "--for=condition=complete", "--timeout=5m"] => drop(find(job)),
        ["rollout", "status", workload] | ["scale", workload, "--replicas=3"] => drop(find(workload)),
        ["delete", "job", name, "--ignore-not-found"] => drop(find(&format!("job/{name}"))),
        ["port-forward", service, ports] => {
            let port: u64 = ports.split_once(':').unwrap().1.parse().unwrap();
            let mut own = list(&find(service)["spec"]["ports"]).iter();
            assert!(own.any(|own| own["port"] == port), "{line}");
        }
        ["delete", "persistentvolumeclaim", name] => {
            let claims = &find("job/spool-replay")["spec"]["template"]["spec"]["volumes"];
            assert!(list(claims).iter().any(|volume| volume["persistentVolumeClaim"]["claimName"] == *name), "{line}");
        }
        ["get", "persistentvolumeclaims"] => {
            let claims = &rendered.find("StatefulSet", "ingest").unwrap()["spec"]["volumeClaimTemplates"];
            assert!(!list(claims).is_empty());
        }
        _ => panic!("{line}: this test does not know how to check that"),
    }
}

fn check_clickhook(line: &str) {
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    let help = Command::new(BINARY).args(&words).arg("--help").output().unwrap();
    assert!(help.status.success(), "{line}: {}", String::from_utf8_lossy(&help.stderr));
}

#[test]
fn every_command_names_what_exists() {
    let commands = commands();
    assert!(commands.len() > 10);
    for (heading, line) in &commands {
        let rendered = overlay(heading);
        if line.starts_with("kubectl ") {
            check_kubectl(rendered, line);
        } else if line.starts_with("clickhook ") {
            check_clickhook(line);
        } else if let Some(rest) = line.strip_prefix("export CLICKHOOK_ADMIN_KEY=$(kubectl -n clickhook get secret ") {
            let (secret, rest) = rest.split_once(" -o jsonpath={.data.").unwrap();
            let key = rest.split_once('}').unwrap().0.to_owned();
            assert!(secrets()[secret].contains(&key), "{line}");
        } else if line.starts_with("docker build ") {
            let tag = line.split(' ').find(|word| word.starts_with("clickhook:")).unwrap();
            let image =
                &rendered.find("StatefulSet", "ingest").unwrap()["spec"]["template"]["spec"]["containers"][0]["image"];
            assert_eq!(image, tag);
            assert!(line.contains("-f Containerfile "), "{line}");
        } else {
            // The link that the command before has made, at the forwarded port.
            assert_eq!(line, "curl -i http://localhost:8080/sale");
            assert!(commands.iter().any(|(_, line)| line.contains("links create --slug sale ")));
            assert!(commands.iter().any(|(_, line)| line.contains("service/ingest 8080:")));
        }
    }
}

#[test]
fn an_overlay_of_ones_own_is_rendered_from_the_example() {
    let dir = tempfile::tempdir().unwrap();
    let (_, example) = blocks("KUBERNETES.md", "yaml").remove(0);
    let root = repository().canonicalize().unwrap();
    std::os::unix::fs::symlink(&root, dir.path().join("clickhook")).unwrap();
    let own = dir.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("kustomization.yaml"), &example).unwrap();
    let output = kubectl(&["kustomize", "--load-restrictor=LoadRestrictionsNone", own.to_str().unwrap()]);
    let rendered = String::from_utf8(output.stdout).unwrap();
    for literal in ["https://go.example.org", "b-1.kafka.internal:9092", "image: registry.example.org/clickhook:0.1.0"]
    {
        assert!(rendered.contains(literal), "{literal}");
    }
    assert!(!rendered.contains("kafka-0.example.com"));
}
