//! The campaign and the ad in the queries of a visit and its destination. As in the
//! address that the visitor is redirected to, `utm_…` of the visit counts before the
//! destination's own, and of other parameters the destination's own.

mod parameters;
mod persons;
mod scrub;
#[cfg(test)]
mod tests;
mod text;

use std::borrow::Cow;

use parameters::{CLICK_IDS, Parameter, RankedParameter, UtmField};
use schemas::{Attribution, Utm, is_placeholder};

use super::source::AdOrigin;

pub(crate) use parameters::{Parameters, refused_alias};
pub(crate) use persons::without_persons;
pub(crate) use scrub::{scrub, scrub_report};

/// How often parameters may be swallowed by the value before them.
const MAX_DEPTH: u8 = 2;

/// The facts in the queries of a visit.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct VisitCampaign<'a> {
    pub(crate) utm: Option<Utm<'a>>,
    pub(crate) ad: Option<Attribution<'a>>,
    /// The source that a click id names.
    pub(crate) click_id: Option<AdOrigin>,
}

/// A value, with the rank of the parameter that it had.
type Ranked<'a> = Option<(u8, Cow<'a, str>)>;

/// The values of one query.
#[derive(Debug, Default)]
pub(crate) struct QueryValues<'a> {
    utm: [Ranked<'a>; 5],
    creative: Ranked<'a>,
    ad_set: Ranked<'a>,
    ad_campaign: Ranked<'a>,
    /// Values with their places in [`CLICK_IDS`].
    click_ids: Vec<(usize, Cow<'a, str>)>,
}

/// Returns the campaign and the ad of a visit. `own` are the values of its destination.
pub(crate) fn campaign<'a>(
    parameters: &Parameters,
    query: Option<&'a str>,
    own: &'a QueryValues<'_>,
) -> VisitCampaign<'a> {
    let mut visit = query.map(|query| parameters.values(query, 0)).unwrap_or_default();
    let mut utm = |field| {
        let value = visit.utm[field as usize].take().or_else(|| borrowed(&own.utm[field as usize]));
        value.map(|(_, value)| value)
    };
    let utm = Utm {
        source: utm(UtmField::Source),
        medium: utm(UtmField::Medium),
        campaign: utm(UtmField::Campaign),
        term: utm(UtmField::Term),
        content: utm(UtmField::Content),
    };
    let lowest = |own: Ranked<'a>, visit: Ranked<'a>| match (own, visit) {
        (Some(own), Some(visit)) => Some(if visit.0 < own.0 { visit.1 } else { own.1 }),
        (own, visit) => own.or(visit).map(|(_, value)| value),
    };
    let mut ad = Attribution {
        referrer_ad_creative: lowest(borrowed(&own.creative), visit.creative).or_else(|| utm.content.clone()),
        ad_set: lowest(borrowed(&own.ad_set), visit.ad_set),
        ad_campaign: lowest(borrowed(&own.ad_campaign), visit.ad_campaign),
        ..Attribution::default()
    };
    let mut first = usize::MAX;
    let own_click_ids = own.click_ids.iter().map(|(at, value)| (*at, Cow::Borrowed(&**value)));
    for (at, value) in own_click_ids.chain(visit.click_ids) {
        first = first.min(at);
        match CLICK_IDS[at].name {
            "gclid" => _ = ad.gclid.get_or_insert(value),
            "fbclid" => _ = ad.fbclid.get_or_insert(value),
            name => _ = ad.click_ids.entry(Cow::Borrowed(name)).or_insert(value),
        }
    }
    VisitCampaign {
        utm: (utm != Utm::default()).then_some(utm),
        ad: (ad != Attribution::default()).then_some(ad),
        click_id: CLICK_IDS.get(first).map(|click_id| click_id.origin),
    }
}

fn borrowed<'a>(value: &'a Ranked<'_>) -> Ranked<'a> {
    value.as_ref().map(|(rank, value)| (*rank, Cow::Borrowed(&**value)))
}

impl Parameters {
    /// Returns the values of a destination's own query.
    pub(crate) fn of_destination(&self, destination: &str) -> QueryValues<'static> {
        let main = &destination[..destination.find('#').unwrap_or(destination.len())];
        let own = main.split_once('?').map(|(_, own)| self.values(own, 0)).unwrap_or_default();
        own.into_owned()
    }

    fn values<'a>(&self, query: &'a str, depth: u8) -> QueryValues<'a> {
        let mut values = QueryValues::default();
        for (raw_key, raw) in text::pairs(query) {
            if raw.is_empty() {
                continue;
            }
            match text::key(raw_key).and_then(|key| self.get(&key)) {
                // Before it is decoded: `%AD_ID%` looks like an encoded byte.
                Some(_) if is_placeholder(raw) => {}
                Some(known) => self.note(&mut values, known, text::decode(raw), depth),
                // `id=5?utm_source=a`; but not the query of an address in a value.
                None if depth < MAX_DEPTH => {
                    if let Some((before, rest)) = text::swallowed(raw)
                        && !before.contains(['/', ':', '%'])
                    {
                        values.add(self.values(rest, depth + 1));
                    }
                }
                None => {}
            }
        }
        values
    }

    /// Notes a value, and those of parameters that it has swallowed.
    fn note<'a>(&self, values: &mut QueryValues<'a>, known: RankedParameter, value: Cow<'a, str>, depth: u8) {
        let RankedParameter { parameter, rank } = known;
        let parts = if depth < MAX_DEPTH { text::swallowed(&value) } else { None };
        let Some((before, rest)) = parts else {
            values.add_value(parameter, rank, meaning(parameter, value));
            return;
        };
        let swallowed = self.values(rest, depth + 1).into_owned();
        values.add_value(parameter, rank, meaning(parameter, Cow::Owned(before.to_owned())));
        values.add(swallowed);
    }
}

/// Returns a value that says something and names nobody.
fn meaning(parameter: Parameter, value: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let value = if matches!(parameter, Parameter::Utm(_)) { text::decode_again(value) } else { value };
    text::tidy(value).filter(|value| !is_placeholder(value) && !persons::has_email(value))
}

impl<'a> QueryValues<'a> {
    /// Adds a value, unless an earlier one has as low a rank.
    fn add_value(&mut self, parameter: Parameter, rank: u8, value: Option<Cow<'a, str>>) {
        let Some(value) = value else { return };
        let slot = match parameter {
            Parameter::Utm(field) => &mut self.utm[field as usize],
            Parameter::Creative => &mut self.creative,
            Parameter::AdSet => &mut self.ad_set,
            Parameter::AdCampaign => &mut self.ad_campaign,
            Parameter::ClickId(at) => {
                self.click_ids.push((at, value));
                return;
            }
        };
        if slot.as_ref().is_none_or(|(other, _)| rank < *other) {
            *slot = Some((rank, value));
        }
    }

    fn add(&mut self, others: Self) {
        for (field, value) in UtmField::ALL.into_iter().zip(others.utm) {
            if let Some((rank, value)) = value {
                self.add_value(Parameter::Utm(field), rank, Some(value));
            }
        }
        for (parameter, value) in [
            (Parameter::Creative, others.creative),
            (Parameter::AdSet, others.ad_set),
            (Parameter::AdCampaign, others.ad_campaign),
        ] {
            if let Some((rank, value)) = value {
                self.add_value(parameter, rank, Some(value));
            }
        }
        self.click_ids.extend(others.click_ids);
    }

    fn into_owned<'o>(self) -> QueryValues<'o> {
        let owned = |value: Ranked<'a>| value.map(|(rank, value)| (rank, Cow::Owned(value.into_owned())));
        QueryValues {
            utm: self.utm.map(owned),
            creative: owned(self.creative),
            ad_set: owned(self.ad_set),
            ad_campaign: owned(self.ad_campaign),
            click_ids: self.click_ids.into_iter().map(|(at, value)| (at, Cow::Owned(value.into_owned()))).collect(),
        }
    }
}
