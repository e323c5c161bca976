//! Links to start from: what the API takes, how it changes, and who follows it.
//! Also what fuzzing starts from.

/// Bodies that the API takes, one change a line, and a visitor's query at last.
pub(crate) const SEEDS: [&str; 10] = [
    "{\"destination\":\"https://acme.example/\"}\n{}\nx=1",
    "{\"destination\":\"https://acme.example/?own=1&a#part\",\"slug\":\"sale\"}\n{\"slug\":\"Sale\"}\nown=2&x=%0d%0a",
    "{\"destination\":\"HTTPS://B\u{fc}cher.example:443/\u{fc}?\u{e9}\",\"slug\":\"caf\u{e9}\"}\n{}\n//evil.example",
    "{\"destination\":\"myapp://open\",\"status_code\":308,\"append_click_id\":true}\n{}\nch_click_id=a",
    "{\"destination\":\"myapp:a?b#c\",\"passthrough\":false}\n{\"passthrough\":true}\n@evil.example",
    "{\"destination\":\"https://a.example\",\"expires_at\":\"2020-01-01T00:00:00Z\",\"expired_url\":\"https://b.example\"}\n{}\n",
    "{\"destination\":\"https://a.example\",\"starts_at\":\"2030-01-01T00:00:00Z\"}\n{\"starts_at\":null}\nqr=1",
    "{\"destination\":\"https://u:p@a.example\",\"referrer_policy\":\"unsafe-url\",\"slug\":\"a\\\"b'c<d>\"}\n{\"disabled\":true}\n",
    "{\"destination\":\"https:a.example\\\\@b.example/\",\"tags\":[\"a\"],\"metadata\":{\"1\":\"b\"}}\n{\"tags\":[]}\n",
    "{\"destination\":\"https://[::1]:8080/\",\"max_clicks\":1,\"campaign\":\"c\",\"external_id\":\"e\"}\n{\"max_clicks\":2}\n",
];
