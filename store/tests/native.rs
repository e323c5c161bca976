//! Whatever rows hold, ClickHouse stores the same bits: rows are sent as columns and read
//! back as rows. And a table whose columns were altered gets none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use clickhouse::Client;
use proptest::{prelude::*, test_runner::TestRunner};
use store::{Insertion, RowWriter, Store, StoreConfig, Table};
use testbed::unique;
use tokio::runtime::Runtime;

/// The columns of a table as tests write them: a text, a list or map of texts, a kind, a
/// flag, a time, or a number of so many bytes. The partition and the offset follow.
fn shape(table: Table) -> &'static str {
    match table {
        Table::Clicks => "ttkmttttttt*ttttttt4ttttttttttftttttttttttt:t",
        Table::LinkEvents => "ttmtttt",
        Table::Conversions => "ttmtttttt*tttttttttt8t8tttf8:ttttttttt",
        Table::Deliveries => "tmttttt44t2ttt",
        Table::Audit => "tmtttttt**tt",
    }
}

/// A source of values of any shape.
#[derive(Clone, Debug)]
struct TestedValues {
    texts: Vec<String>,
    numbers: Vec<u64>,
}

fn values() -> impl Strategy<Value = TestedValues> {
    let text = prop_oneof![4 => "\\PC{0,6}", 1 => Just(String::new()), 1 => "[ab]{1}", 1 => "x{127,300}"];
    (prop::collection::vec(text, 1..400), prop::collection::vec(any::<u64>(), 1..50))
        .prop_map(|(texts, numbers)| TestedValues { texts, numbers })
}

impl TestedValues {
    /// Writes a row; `nth` is its offset.
    fn row(&self, table: Table, nth: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut row = RowWriter::new(&mut bytes);
        for (place, column) in shape(table).chars().enumerate() {
            let at = nth as usize * 7 + place;
            let text = |step: usize| self.texts[(at + step) % self.texts.len()].as_str();
            let number = self.numbers[at % self.numbers.len()];
            let count = at % 4;
            match column {
                't' => row.text(text(0)),
                '*' => row.texts((0..count).map(text)),
                ':' => row.map((0..count).map(|step| (["a", "b", "c", "d"][step], text(step)))),
                'k' => row.u8(1 + (number % 2) as u8),
                'f' => row.u8((number % 2) as u8),
                // Within three months.
                'm' => row.i64(1_770_000_000_000 + (number % 8_000_000_000).cast_signed()),
                '2' => row.u16(number as u16),
                '4' => row.u32(number as u32),
                _ => row.u64(number),
            };
        }
        row.u16(3).u64(nth);
        bytes
    }
}

struct NativeBed {
    runtime: Runtime,
    store: Store,
    client: Client,
}

fn bed() -> NativeBed {
    let runtime = Runtime::new().unwrap();
    let config = StoreConfig {
        url: testbed::clickhouse(),
        database: unique("t"),
        clicks_days: 0,
        deliveries_days: 0,
        ..StoreConfig::default()
    };
    let client = Client::default().with_url(&config.url).with_database(&config.database);
    let store = Store::new(config).unwrap();
    runtime.block_on(store.migrate()).unwrap();
    NativeBed { runtime, store, client }
}

impl NativeBed {
    fn run(&self, sql: &str) {
        self.runtime.block_on(self.client.query(sql).execute()).unwrap();
    }

    fn insert(&self, table: Table, rows: &[Vec<u8>]) -> Result<(), store::StoreError> {
        let rows = rows.iter().map(|row| row.clone().into()).collect();
        let insertion = Insertion { table, rows, token: unique("t"), query_id: unique("q") };
        self.runtime.block_on(self.store.insert(insertion))
    }

    /// Reads all rows of a table, as they are written.
    fn stored(&self, table: Table) -> Vec<u8> {
        let names: Vec<&str> = table.column_names().collect();
        let sql = format!("SELECT {} FROM {} ORDER BY kafka_offset", names.join(", "), table.name());
        let bytes = async { self.client.query(&sql).fetch_bytes("RowBinary").unwrap().collect().await.unwrap() };
        self.runtime.block_on(bytes).to_vec()
    }

    fn stored_rows(&self) -> u64 {
        self.runtime.block_on(self.client.query("SELECT count() FROM clicks").fetch_one()).unwrap()
    }

    fn keeps(&self, table: Table, values: &TestedValues, rows: u64) {
        let rows: Vec<Vec<u8>> = (0..rows).map(|nth| values.row(table, nth)).collect();
        self.run(&format!("TRUNCATE TABLE {}", table.name()));
        self.insert(table, &rows).unwrap();
        assert!(self.stored(table) == rows.concat(), "{} has other bits than were sent: {values:?}", table.name());
    }
}

#[test]
fn every_column_holds_the_bits_that_were_sent() {
    let bed = bed();
    let cases = ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(cases)
        .run(&(values(), 1_u64..500), |(values, rows)| {
            Table::ALL.into_iter().for_each(|table| bed.keeps(table, &values, rows));
            Ok(())
        })
        .unwrap();
    // So many different texts that their places take four bytes.
    let texts = (0..70_000).map(|nth| nth.to_string()).collect();
    bed.keeps(Table::LinkEvents, &TestedValues { texts, numbers: vec![5] }, 70_000);
}

#[test]
fn a_text_may_be_of_low_cardinality_or_not() {
    let bed = bed();
    for column in ["slug LowCardinality(String)", "city String", "click_ids Map(String, LowCardinality(String))"] {
        bed.run(&format!("ALTER TABLE clicks MODIFY COLUMN {column}"));
    }
    let texts = ["a", "", "\u{1f692} sale", "b"].map(str::to_owned).to_vec();
    bed.keeps(Table::Clicks, &TestedValues { texts, numbers: vec![1, 2] }, 40);
}

#[test]
fn a_column_that_was_altered_gets_no_row_until_it_is_put_right() {
    let bed = bed();
    let values = TestedValues { texts: vec!["\u{1f692}\u{1f692} sale".to_owned()], numbers: vec![7] };
    let rows: Vec<Vec<u8>> = (0..3).map(|nth| values.row(Table::Clicks, nth)).collect();
    bed.insert(Table::Clicks, &rows[..1]).unwrap();
    for (nth, altered) in ["utm_content Nullable(String)", "asn UInt64"].into_iter().enumerate() {
        bed.run(&format!("ALTER TABLE clicks MODIFY COLUMN {altered}"));
        // ClickHouse refuses the type that it had, and then the column is named.
        bed.insert(Table::Clicks, &rows[nth + 1..nth + 2]).unwrap_err();
        let error = bed.insert(Table::Clicks, &rows[nth + 1..nth + 2]).unwrap_err().to_string();
        assert_eq!(bed.stored_rows(), nth as u64 + 1);
        // What it says to run puts it right.
        bed.run(error.split('`').nth(1).unwrap());
        bed.insert(Table::Clicks, &rows[nth + 1..nth + 2]).unwrap();
    }
    assert!(bed.stored(Table::Clicks) == rows.concat());
}
