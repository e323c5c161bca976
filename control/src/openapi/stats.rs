//! The operations on statistics: three for each kind of subject.

use serde_json::{Value, json};
use service::problem::Kind;
use store::Dimension;

use crate::{
    api::stats::{Series, SeriesQuery, SubjectKind, SubjectStats, SummaryQuery, TopList, TopQuery},
    openapi::{document::Document, operation::Operation},
};

pub(super) fn describe(document: &mut Document) {
    for kind in SubjectKind::ALL {
        let noun = kind.noun();
        let of = if kind == SubjectKind::Workspace { "the workspace".to_owned() } else { format!("a {noun}") };
        let path = kind.path();
        let summary = format!("Count the visits, conversions and revenue of {of}");
        subject(Operation::new(document, "get", path, &format!("{noun}Stats"), &summary), kind)
            .query::<SummaryQuery>()
            .answers::<SubjectStats>(200, "The counts", &[])
            .done();
        let series = format!("Count the visits of {of} over time");
        subject(Operation::new(document, "get", &format!("{path}/series"), &format!("{noun}Series"), &series), kind)
            .query::<SeriesQuery>()
            .answers_rows::<Series>(200, "The intervals, also those without visits. CSV and NDJSON have the rows alone")
            .done();
        let top = format!("List the sources, countries or another fact of {of} with the most visits");
        let top_path = format!("{path}/top/{{dimension}}");
        subject(Operation::new(document, "get", &top_path, &format!("{noun}Top"), &top), kind)
            .path_schema("dimension", &dimensions())
            .query::<TopQuery>()
            .answers_rows::<TopList>(200, "The values. CSV and NDJSON have the rows alone")
            .done();
    }
}

/// Adds the parts that all three operations of a subject have.
fn subject(operation: Operation<'_>, kind: SubjectKind) -> Operation<'_> {
    let words = match kind {
        SubjectKind::Campaign => "The campaign is named by its id, or by the name that links give.",
        SubjectKind::Product => {
            "The product is named by its number (SKU), which stands in the destinations of links between other characters \
             than letters and digits. Upper and lower case are the same."
        }
        _ => "",
    };
    let operation = operation.tag("Statistics").refuses(&[Kind::NotFound, Kind::Invalid]);
    let operation = if words.is_empty() { operation } else { operation.describe(words) };
    let name = kind.path().split_once('{').and_then(|(_, rest)| rest.strip_suffix('}'));
    match (kind, name) {
        (SubjectKind::Link, Some(name)) => operation.path::<schemas::LinkId>(name),
        (_, Some(name)) => operation.path::<String>(name),
        (_, None) => operation,
    }
}

/// Returns the schema of a dimension's name.
fn dimensions() -> Value {
    let names: Vec<&str> = Dimension::ALL.iter().map(|dimension| dimension.as_str()).collect();
    json!({"type": "string", "enum": names})
}
