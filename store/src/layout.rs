//! The types that a table's columns have in ClickHouse, compared with those that rows
//! need. A text may be stored as `String` or `LowCardinality(String)`, whichever a team
//! prefers: the bits are the same. Everything else is as the migrations make it.

use clickhouse::Row;
use serde::Deserialize;

use crate::{
    Store, StoreError, Table,
    table::{ColumnKind, KnownColumn},
};

/// A column with the type that it has in ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TypedColumn {
    pub(crate) name: &'static str,
    pub(crate) kind: ColumnKind,
    /// The type's name, as ClickHouse spells it.
    pub(crate) type_name: String,
}

/// A column as `system.columns` has it.
#[derive(Row, Deserialize)]
struct FoundColumn {
    name: String,
    r#type: String,
}

const TEXTS: [&str; 2] = ["String", "LowCardinality(String)"];

impl ColumnKind {
    /// Returns the type that the migrations give to a column.
    const fn made_as(self) -> &'static str {
        match self {
            Self::Text => "String",
            Self::FewTexts => "LowCardinality(String)",
            Self::TextList => "Array(LowCardinality(String))",
            Self::FewTextsMap => "Map(LowCardinality(String), String)",
            Self::TextMap => "Map(String, String)",
            Self::ClickKind => "Enum8('click' = 1, 'scan' = 2)",
            Self::Time => "DateTime64(3, 'UTC')",
            Self::Flag => "Bool",
            Self::U16 => "UInt16",
            Self::U32 => "UInt32",
            Self::U64 => "UInt64",
            Self::I64 => "Int64",
        }
    }

    /// Reports whether a column of this type holds the values as they are.
    fn fits(self, type_name: &str) -> bool {
        match self {
            Self::Text | Self::FewTexts => TEXTS.contains(&type_name),
            Self::TextList => TEXTS.iter().any(|text| type_name == format!("Array({text})")),
            Self::FewTextsMap | Self::TextMap => {
                let maps = TEXTS.iter().flat_map(|key| TEXTS.iter().map(move |value| format!("Map({key}, {value})")));
                maps.into_iter().any(|map| type_name == map)
            }
            _ => type_name == self.made_as(),
        }
    }

    /// Returns a value for rows that have none, as SQL.
    const fn default_value(self) -> &'static str {
        match self {
            Self::Text | Self::FewTexts => "''",
            Self::TextList => "[]",
            Self::FewTextsMap | Self::TextMap => "map()",
            Self::ClickKind => "'click'",
            Self::Time | Self::Flag | Self::U16 | Self::U32 | Self::U64 | Self::I64 => "0",
        }
    }
}

impl Store {
    /// Returns the columns of a table with their types.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or the table cannot hold the rows as they are.
    pub(crate) async fn layout(&self, table: Table) -> Result<Vec<TypedColumn>, StoreError> {
        let sql = "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = ?";
        let found: Vec<FoundColumn> = self.timed(self.query(sql).bind(table.name()).fetch_all()).await?;
        compare(&self.config().database, table, &found)
    }
}

fn compare(database: &str, table: Table, found: &[FoundColumn]) -> Result<Vec<TypedColumn>, StoreError> {
    let name = format!("{database}.{}", table.name());
    if found.is_empty() {
        let what = format!("there is no table {name}: was it dropped, renamed or detached?");
        return Err(StoreError::Altered { what, run: format!("ATTACH TABLE {name}") });
    }
    let typed = |(column, kind): &KnownColumn| {
        let made_as = kind.made_as();
        match found.iter().find(|found| found.name == *column) {
            None => Err(StoreError::Altered {
                what: format!("{name} has no column {column}"),
                run: format!("ALTER TABLE {name} ADD COLUMN {column} {made_as}"),
            }),
            Some(FoundColumn { r#type, .. }) if kind.fits(r#type) => {
                Ok(TypedColumn { name: column, kind: *kind, type_name: r#type.clone() })
            }
            Some(FoundColumn { r#type, .. }) => {
                // Without a default, ClickHouse does not take the nulls out of a column.
                let nullable = r#type.contains("Nullable(");
                let default = if nullable { format!(" DEFAULT {}", kind.default_value()) } else { String::new() };
                Err(StoreError::Altered {
                    what: format!("the column {column} of {name} is {type}, and has to be {made_as}"),
                    run: format!("ALTER TABLE {name} MODIFY COLUMN {column} {made_as}{default}"),
                })
            }
        }
    };
    table.columns().iter().map(typed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: Table, change: impl Fn(&str, &mut String)) -> Vec<FoundColumn> {
        let column = |(name, kind): &KnownColumn| {
            let mut r#type = kind.made_as().to_owned();
            change(name, &mut r#type);
            FoundColumn { name: (*name).to_owned(), r#type }
        };
        table.columns().iter().map(column).filter(|found| !found.r#type.is_empty()).collect()
    }

    fn error(change: impl Fn(&str, &mut String)) -> String {
        compare("c", Table::Clicks, &found(Table::Clicks, change)).unwrap_err().to_string()
    }

    #[test]
    fn a_table_that_holds_the_rows_as_they_are_is_taken() {
        for table in Table::ALL {
            assert_eq!(compare("c", table, &found(table, |_, _| {})).unwrap().len(), table.columns().len());
        }
        let fewer = found(Table::Clicks, |name, r#type| {
            if name == "link_id" {
                *r#type = "LowCardinality(String)".to_owned();
            }
        });
        let typed = compare("c", Table::Clicks, &fewer).unwrap();
        assert!(typed.iter().any(|column| column.name == "link_id" && column.type_name == "LowCardinality(String)"));
    }

    #[test]
    fn an_altered_column_is_named_with_what_to_run() {
        let nullable = error(|name, r#type| {
            if name == "utm_content" {
                *r#type = "Nullable(String)".to_owned();
            }
        });
        assert!(nullable.contains("`ALTER TABLE c.clicks MODIFY COLUMN utm_content String DEFAULT ''`"), "{nullable}");
        let wider = error(|name, r#type| {
            if name == "kafka_partition" {
                *r#type = "UInt32".to_owned();
            }
        });
        assert!(wider.contains("kafka_partition of c.clicks is UInt32, and has to be UInt16"), "{wider}");
        let dropped = error(|name, r#type| {
            if name == "city" {
                r#type.clear();
            }
        });
        assert!(dropped.contains("`ALTER TABLE c.clicks ADD COLUMN city LowCardinality(String)`"), "{dropped}");
        let gone = compare("c", Table::Clicks, &[]).unwrap_err().to_string();
        assert!(gone.contains("there is no table c.clicks"), "{gone}");
    }
}
