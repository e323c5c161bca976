//! The way of a bundle through the enricher without Kafka, and what must hold of it
//! whatever comes in. For fuzzing and tests; not part of the crate's API.

#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "what does not hold is told by panicking"
)]

use std::collections::BTreeMap;

use schemas::{
    ClickClass, ClickId, Dead, Envelope, Event, LinkFacts, LinkId, RawClick, Timestamp, Topics,
    click::{Visit, link_tail},
    hints::Hints,
};

use crate::{
    clicks::{
        address::DayKey,
        address_data::AddressFiles,
        agent::AgentReader,
        bundle::Bundle,
        enrich::Enrich,
        lines::{EnrichedLines, KnownParts, LineEnricher},
        query::Parameters,
    },
    config::Config,
    dead::UnusableLine,
};

/// The time of all visits.
const NOW: Timestamp = Timestamp::from_millis(1_770_301_425_120);
/// How many bytes an event may have for each byte of its line: JSON writes a control
/// character with six.
const GROWTH: usize = 6;
/// How many bytes an event may have beside: the facts that a line leads to.
const ADDED: usize = 2_000;

/// An enricher without Kafka.
pub struct FuzzedEnricher {
    enricher: LineEnricher,
    known: KnownParts,
    lines: EnrichedLines,
    key: DayKey,
}

/// The numbers of a bundle's lines by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineOutcomes {
    pub events: usize,
    pub visits: usize,
    pub refused: usize,
}

impl FuzzedEnricher {
    /// Makes an enricher without databases of addresses.
    ///
    /// # Errors
    /// When its tables cannot be built.
    pub fn new() -> Result<Self, String> {
        let config = Config::default();
        let enrich = Enrich {
            addresses: AddressFiles::open(&config).map_err(|error| error.to_string())?,
            parameters: Parameters::new(&BTreeMap::new()),
            ip_mode: config.ip_mode,
            datacentre: config.datacentre,
        };
        let agents = AgentReader::new().map_err(|error| error.to_string())?;
        Ok(Self {
            enricher: LineEnricher { enrich, agents },
            known: KnownParts::default(),
            lines: EnrichedLines::default(),
            key: DayKey::new(&[7; 32]),
        })
    }

    /// Enriches a bundle. Every line becomes an event, is a visit that is not counted, or
    /// goes to `dead`.
    pub fn bundle(&mut self, bytes: &[u8]) -> LineOutcomes {
        let bundle = Bundle::of_lines(bytes);
        let Self { enricher, known, lines, key } = self;
        enricher.lines(bundle.lines(), |_| Some(key.clone()), known, lines);
        let (visits, refused) = (lines.visits.len(), lines.unusable.len());
        let outcomes = LineOutcomes { events: lines.events().count(), visits, refused };
        assert_eq!(outcomes.events + visits + refused, lines.count);
        let refusals: Vec<usize> = lines.unusable.iter().map(|line| line.number).collect();
        let mut events = lines.events();
        for (number, line) in bundle.lines().enumerate() {
            if refusals.contains(&number) {
                continue;
            }
            // The line as it is read without what earlier lines have left.
            let raw: RawClick<'_> = serde_json::from_slice(line).unwrap();
            if raw.class.counts() {
                let (id, json, traceparent) = events.next().unwrap();
                assert_eq!((id, traceparent), (raw.id, raw.traceparent.as_deref()));
                check_event(enricher, key, &raw, json);
                assert!(json.len() <= GROWTH * line.len() + ADDED, "{} bytes of {}", json.len(), line.len());
            }
        }
        for line in &lines.unusable {
            let reason = line.reason.clone();
            let letter = UnusableLine { bundle: &bundle, number: Some(line.number), text: &line.text, reason }
                .dead_letter(&Topics::new("t"), NOW);
            let dead: Dead = serde_json::from_slice(&letter).unwrap();
            assert_eq!(dead.origin.line.map(|line| line as usize), Some(line.number));
            assert!(!dead.reason.is_empty() && letter.len() <= 4_000_000);
        }
        outcomes
    }

    /// Enriches the visit that a redirector would record of these texts, a line each:
    /// user agent, referrer, query, destination, hints.
    pub fn visit(&mut self, texts: &[u8]) -> LineOutcomes {
        let texts = String::from_utf8_lossy(texts);
        let mut texts = texts.split('\n');
        let mut next = || texts.next().filter(|text| !text.is_empty());
        let (user_agent, referer, query) = (next(), next(), next());
        let destination = next().unwrap_or("https://acme.example/");
        let link = LinkFacts {
            id: LinkId::from_bits(7),
            short_url: "https://go.acme.example/sale".into(),
            destination: destination.into(),
            slug: "sale".into(),
            campaign: None,
            segment: next().map(Into::into),
            tags: Vec::new(),
        };
        let visit = Visit {
            id: ClickId::new(NOW, 7, 7),
            class: ClickClass::Click,
            rate_limited: false,
            ip: [203, 0, 113, 42].into(),
            user_agent,
            referer,
            query,
            hints: next().map(Hints::read).unwrap_or_default(),
            traceparent: None,
        };
        let mut line = Vec::new();
        visit.write_line(&link_tail("default", &link).unwrap(), &mut line);
        let outcomes = self.bundle(&line);
        assert_eq!(outcomes, LineOutcomes { events: 1, ..LineOutcomes::default() });
        outcomes
    }
}

/// Checks an event: it is the one that its line has, read and written by its types alone.
fn check_event(enricher: &LineEnricher, key: &DayKey, raw: &RawClick<'_>, json: &[u8]) {
    let envelope: Envelope<'_, Event<'_>> = serde_json::from_slice(json).unwrap();
    let written = serde_json::to_vec(&envelope).unwrap();
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(json));
    let again = enricher.anew(raw, Some(key)).unwrap();
    assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(json));
    let event = envelope.event;
    let click = event.click.unwrap();
    assert_eq!((envelope.v, &*envelope.workspace, click.id), (1, &*raw.workspace, raw.id));
    assert_eq!(event.link.as_ref(), raw.link.as_ref());
    assert_eq!(click.bot, click.bot_reason.is_some());
    assert!(click.source.is_some_and(|source| !source.is_empty()) && click.medium.is_some());
    assert_eq!(click.user_agent.as_deref(), raw.user_agent.as_deref());
}
