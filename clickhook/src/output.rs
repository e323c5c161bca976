//! The output of commands: a readable table for people, JSON for programs.

/// Prints a line. An output that the reader has closed, as `head` does, is no error.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// The fields that are printed of a JSON value: titles, each with a JSON pointer.
pub(crate) type Columns<'a> = &'a [(&'a str, &'a str)];

/// Prints a table with a row for each value.
pub(crate) fn table(rows: &[Value], columns: Columns<'_>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|(title, _)| title.to_uppercase()));
    for row in rows {
        table.add_row(columns.iter().map(|(_, pointer)| cell(row.pointer(pointer))));
    }
    say!("{table}");
}

/// Prints one value, a line a field.
pub(crate) fn facts(value: &Value, facts: Columns<'_>) {
    let width = facts.iter().map(|(title, _)| title.len()).max().unwrap_or_default();
    for (title, pointer) in facts {
        let value = cell(value.pointer(pointer));
        if !value.is_empty() {
            say!("{title:width$}  {value}");
        }
    }
}

/// Prints a value as JSON.
pub(crate) fn json(value: &Value) {
    say!("{value:#}");
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(" "),
        Some(other) => other.to_string(),
    }
}
