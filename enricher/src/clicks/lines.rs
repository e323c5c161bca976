//! Enriches the lines of a bundle: each becomes the JSON of an event, or is refused with
//! its reason. Nothing here waits for anything.

use std::{ops::Range, sync::Arc};

use schemas::{ClickClass, ClickId, RawClick, Timestamp, hints::Hints};

use super::{
    address::DayKey,
    address_data::AddressData,
    agent::{AgentCache, AgentReader, Contradiction},
    enrich::Enrich,
    links::{self, KnownLink, LinkCache},
};

/// The facts that the lines of all bundles need.
pub(crate) struct LineEnricher {
    pub(crate) enrich: Enrich,
    pub(crate) agents: AgentReader,
}

/// The parts of lines that a thread has read before.
#[derive(Default)]
pub(crate) struct KnownParts {
    agents: AgentCache,
    links: LinkCache,
    /// The line that is read, without its link.
    line: Vec<u8>,
}

/// The results of a bundle's lines.
#[derive(Default)]
pub(crate) struct EnrichedLines {
    /// The JSON of all events, one behind the other.
    json: Vec<u8>,
    events: Vec<EnrichedEvent>,
    /// The lines that cannot be used.
    pub(crate) unusable: Vec<RefusedLine>,
    /// The classes of visits that are no clicks.
    pub(crate) visits: Vec<ClickClass>,
    /// The contradictions between agents and their hints.
    pub(super) contradictions: Vec<Contradiction>,
    /// The number of lines.
    pub(crate) count: usize,
}

struct EnrichedEvent {
    id: ClickId,
    json: Range<usize>,
    traceparent: Option<String>,
}

/// A line that cannot be used.
pub(crate) struct RefusedLine {
    /// The line's number in its bundle, from 0.
    pub(crate) number: usize,
    pub(crate) text: Vec<u8>,
    pub(crate) reason: String,
}

impl EnrichedLines {
    /// Returns the events in the order of their lines: the click's id, the JSON, and the
    /// trace context.
    pub(crate) fn events(&self) -> impl Iterator<Item = (ClickId, &[u8], Option<&str>)> {
        self.events.iter().map(|event| (event.id, &self.json[event.json.clone()], event.traceparent.as_deref()))
    }

    fn clear(&mut self) {
        self.json.clear();
        self.events.clear();
        self.unusable.clear();
        self.visits.clear();
        self.contradictions.clear();
        self.count = 0;
    }
}

impl LineEnricher {
    /// Enriches the lines of a bundle into `lines`. `known` is the thread's, and `key_for`
    /// returns the key of a click's day, if it still exists.
    pub(crate) fn lines<'t>(
        &self,
        texts: impl Iterator<Item = &'t [u8]>,
        mut key_for: impl FnMut(Timestamp) -> Option<DayKey>,
        known: &mut KnownParts,
        lines: &mut EnrichedLines,
    ) {
        lines.clear();
        // A bundle's addresses are looked up in the same databases.
        let data = self.enrich.addresses.current();
        for (number, text) in texts.enumerate() {
            lines.count += 1;
            if let Err(reason) = self.line(text, &mut key_for, &data, known, lines) {
                lines.unusable.push(RefusedLine { number, text: text.to_vec(), reason });
            }
        }
    }

    fn line(
        &self,
        line: &[u8],
        key_for: &mut impl FnMut(Timestamp) -> Option<DayKey>,
        data: &AddressData,
        known: &mut KnownParts,
        lines: &mut EnrichedLines,
    ) -> Result<(), String> {
        let KnownParts { agents, links, line: buffer } = known;
        let (raw, link) = self.read(line, links, buffer).map_err(|error| format!("not a click: {error}"))?;
        if !raw.class.counts() {
            lines.visits.push(raw.class);
            return Ok(());
        }
        let key = key_for(raw.id.timestamp());
        let agent = agents.agent(&self.agents, raw.user_agent.as_deref());
        let event = self.enrich.event(&raw, link.as_deref(), &agent, data, key.as_ref());
        let event = event.map_err(|error| error.to_string())?;
        let hints = raw.hints.as_deref().map(Hints::read).unwrap_or_default();
        lines.contradictions.extend(agent.contradiction(hints));
        let start = lines.json.len();
        event.write_json(&mut lines.json);
        let traceparent = raw.traceparent.as_deref().map(str::to_owned);
        lines.events.push(EnrichedEvent { id: raw.id, json: start..lines.json.len(), traceparent });
        Ok(())
    }

    /// Returns the JSON of a click's event without what other lines have left in caches.
    pub(crate) fn anew(&self, raw: &RawClick<'_>, key: Option<&DayKey>) -> Result<Vec<u8>, String> {
        let link = raw.link.as_ref().map(|link| KnownLink::new(link, &self.enrich.parameters)).transpose();
        let link = link.map_err(|error| error.to_string())?;
        let agent = AgentCache::default().agent(&self.agents, raw.user_agent.as_deref());
        let data = self.enrich.addresses.current();
        let event = self.enrich.event(raw, link.as_ref(), &agent, &data, key).map_err(|error| error.to_string())?;
        let mut json = Vec::new();
        event.write_json(&mut json);
        Ok(json)
    }

    /// Reads a line, and its link if it is not known. What cannot be read in two parts is
    /// read whole, which gives the reason.
    fn read<'a>(
        &self,
        line: &'a [u8],
        links: &mut LinkCache,
        buffer: &'a mut Vec<u8>,
    ) -> serde_json::Result<(RawClick<'a>, Option<Arc<KnownLink>>)> {
        let parameters = &self.enrich.parameters;
        if let Some((before, link)) = links::split(line)
            && let Some(link) = links.link(link, parameters)
        {
            buffer.clear();
            buffer.extend_from_slice(before);
            // A second link is refused, as in a whole line.
            buffer.extend_from_slice(b",\"link\":null}");
            if let Ok(raw) = serde_json::from_slice(buffer) {
                return Ok((raw, Some(link)));
            }
        }
        let raw: RawClick<'_> = serde_json::from_slice(line)?;
        let link = raw.link.as_ref().map(|link| KnownLink::new(link, parameters).map(Arc::new)).transpose()?;
        Ok((raw, link))
    }
}
