//! Kubernetes gives each container variables for the services of its namespace ("service
//! links", in the form of Docker's container links). A service named `clickhook-control`
//! gives `CLICKHOOK_CONTROL_PORT=tcp://10.0.0.1:8081`, which looks like a setting of
//! clickhook. Such variables are told from settings here.

use std::collections::{BTreeMap, BTreeSet};

/// The protocols of a service's port, as they begin a link and end a variable's name.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Removes the variables of service links. A name belongs to a service only where the
/// service's three common variables are all there, so no setting is removed by its name
/// alone.
pub(crate) fn without(variables: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let variables: BTreeMap<String, String> = variables.into_iter().collect();
    let services: BTreeSet<String> = variables
        .keys()
        .filter_map(|name| name.strip_suffix("_SERVICE_HOST"))
        .filter(|service| {
            let has_port = variables.contains_key(&format!("{service}_SERVICE_PORT"));
            has_port && variables.get(&format!("{service}_PORT")).is_some_and(|value| is_link(value))
        })
        .map(ToOwned::to_owned)
        .collect();
    let is_of_a_service = |name: &str| {
        services.iter().any(|service| name.strip_prefix(service.as_str()).is_some_and(is_variable_of_service))
    };
    variables.into_iter().filter(|(name, _)| !is_of_a_service(name)).collect()
}

/// Returns whether a value is a link such as `tcp://10.0.0.1:8081`.
fn is_link(value: &str) -> bool {
    value.split_once("://").is_some_and(|(protocol, _)| PROTOCOLS.contains(&protocol))
}

/// Returns whether the rest of a name behind the service's is one that Kubernetes makes.
fn is_variable_of_service(rest: &str) -> bool {
    if matches!(rest, "_SERVICE_HOST" | "_SERVICE_PORT" | "_PORT") || rest.starts_with("_SERVICE_PORT_") {
        return true;
    }
    let Some(rest) = rest.strip_prefix("_PORT_") else { return false };
    let mut words = rest.split('_');
    let is_number = words.next().is_some_and(|port| port.parse::<u16>().is_ok());
    let has_protocol = words.next().is_some_and(|protocol| PROTOCOLS.contains(&protocol.to_lowercase().as_str()));
    is_number && has_protocol && matches!(words.next(), None | Some("PROTO" | "PORT" | "ADDR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the variables that Kubernetes makes for a service.
    fn links(service: &str) -> Vec<(String, String)> {
        let variables = [
            ("SERVICE_HOST", "10.96.0.7"),
            ("SERVICE_PORT", "8081"),
            ("SERVICE_PORT_API", "8081"),
            ("PORT", "tcp://10.96.0.7:8081"),
            ("PORT_8081_TCP", "tcp://10.96.0.7:8081"),
            ("PORT_8081_TCP_PROTO", "tcp"),
            ("PORT_8081_TCP_PORT", "8081"),
            ("PORT_8081_TCP_ADDR", "10.96.0.7"),
        ];
        variables.map(|(name, value)| (format!("{service}_{name}"), value.to_owned())).to_vec()
    }

    #[test]
    fn variables_of_services_are_removed_and_settings_stay() {
        let settings = [
            ("CLICKHOOK_CONTROL_LISTEN", "0.0.0.0:8081"),
            ("CLICKHOOK_KAFKA_BROKERS", "kafka:9092"),
            ("CLICKHOOK_KAFKA_PORT", "tcp://10.96.0.9:9092"),
        ];
        let settings: BTreeMap<String, String> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let services = ["CLICKHOOK_CONTROL", "CLICKHOOK_INGEST", "CLICKHOOK", "CLICKHOOK_CLICKHOUSE_METRICS"];
        let all = services.into_iter().flat_map(links).chain(settings.clone());
        assert_eq!(without(all), settings, "a name that only looks like a service's stays, and is an error");
    }
}
