//! Autoscalers and alerts: the lag that scales a role, and the metrics that alerts ask for.

use std::{collections::BTreeMap, fs};

use schemas::groups::ConsumerGroup;

use crate::{
    manifests::{ALL, list, repository, text, title},
    settings::settings_of,
};

#[test]
fn an_autoscaler_has_a_target_that_leaves_it_the_number() {
    for rendered in ALL.iter() {
        for scaler in rendered.of("HorizontalPodAutoscaler").chain(rendered.of("ScaledObject")) {
            let target = &scaler["spec"]["scaleTargetRef"];
            let workload = rendered.find(text(&target["kind"]), text(&target["name"])).unwrap();
            assert!(workload["spec"]["replicas"].is_null(), "{} would be reset by every apply", title(workload));
        }
    }
}

#[test]
fn consumers_are_scaled_by_the_lag_of_their_own_groups() {
    let mut scaled = 0;
    for rendered in ALL.iter() {
        for object in rendered.of("ScaledObject") {
            let workload = rendered.find("StatefulSet", text(&object["spec"]["scaleTargetRef"]["name"])).unwrap();
            let settings = settings_of(rendered, workload, &BTreeMap::new());
            let (prefix, partitions) = (&settings["kafka"]["prefix"], &settings["kafka"]["partitions"]);
            let most = object["spec"]["maxReplicaCount"].as_i64().unwrap();
            assert!(most <= partitions.as_integer().unwrap(), "{}: {most} of {partitions} partitions", title(object));
            for trigger in list(&object["spec"]["triggers"]) {
                let metadata = &trigger["metadata"];
                let without_prefix = |name: &str| {
                    name.strip_prefix(&format!("{}.", prefix.as_str().unwrap())).unwrap_or(name).to_owned()
                };
                let name = without_prefix(text(&metadata["consumerGroup"]));
                let group = ConsumerGroup::ALL.into_iter().find(|group| group.name() == name);
                let topic = without_prefix(text(&metadata["topic"]));
                let topics = group.unwrap_or_else(|| panic!("no group {name}")).topics();
                assert!(topics.iter().any(|of| of.suffix() == topic), "{name} does not read {topic}");
                let role = match name.as_str() {
                    "conversions" => "enricher",
                    name => name.split('.').next().unwrap(),
                };
                assert_eq!(object["metadata"]["name"], role);
                assert_eq!(metadata["bootstrapServersFromEnv"], "CLICKHOOK_KAFKA_BROKERS");
                scaled += 1;
            }
        }
    }
    assert!(scaled > 0);
}

#[test]
fn alerts_ask_for_metrics_that_exist() {
    let page = fs::read_to_string(repository().join("docs/CONTRACTS.md")).unwrap();
    let mut asked = 0;
    for rule in ALL.iter().flat_map(|rendered| rendered.of("PrometheusRule")) {
        for alert in list(&rule["spec"]["groups"]).iter().flat_map(|group| list(&group["rules"])) {
            let expression = text(&alert["expr"]);
            for name in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                if !name.starts_with("clickhook_") {
                    continue;
                }
                let (counter, histogram) = (name.strip_suffix("_total"), name.strip_suffix("_bucket"));
                let kind = match (counter, histogram) {
                    (Some(_), _) => "counter",
                    (_, Some(_)) => "histogram",
                    _ => "gauge",
                };
                let metric = counter.or(histogram).unwrap_or(name);
                assert!(page.contains(&format!("| `{metric}` | {kind} |")), "{}: no {kind} {metric}", alert["alert"]);
                asked += 1;
            }
        }
    }
    assert!(asked > 0);
}
