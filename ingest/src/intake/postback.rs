//! The fields of a postback: what an affiliate network, which can only call an address with
//! its macros filled in, tells of a conversion, in the query, a form or a JSON object.
//!
//! Trackers call the same things by different names, and an address that was
//! made for one of them should go on working: `cid`, `txid`, `et` are Voluum's
//! (doc.voluum.com, "Parameters in Postback URLs"), `clickid`, `action_id`, `goal`
//! and `sum` Affise's (help-center.affise.com, "Affise postback URL parameters"),
//! `subid` and `revenue` Keitaro's (docs.keitaro.io, "Postback"), whose `tid` only
//! counts the conversions of one click and so is no order's id. `payout` is what
//! the conversion is worth to whoever runs the link, so it becomes the amount.
//!
//! Nobody reads the answer to a postback, so what can be understood is taken: a
//! currency in lower case, and an amount with more decimals than its currency has,
//! which is rounded. The metadata then keep the amount as it was written.

use std::{borrow::Cow, collections::BTreeMap};

use iso_currency::Currency;
use schemas::{
    conversion::{Amount, Reported},
    is_placeholder,
};
use serde_json::Value;
use service::{
    json,
    problem::{FieldError, Problem},
};
use url::form_urlencoded;

use super::batch::without_mark;
use crate::money;

/// The name of a conversion to which a network gives none.
const NAME: &str = "conversion";

/// The parameters, ours first.
const CLICK_ID: &[&str] = &["click_id", "clickid", "cid", "subid"];
const NAMES: &[&str] = &["name", "event", "et", "goal"];
const ORDER_ID: &[&str] = &["order_id", "txid", "action_id"];
const PAYOUT: &[&str] = &["payout", "amount", "sum", "revenue"];
const COMMISSION: &[&str] = &["commission"];
const CURRENCY: &[&str] = &["currency"];
const PRODUCT: &[&str] = &["product"];
const STATUS: &[&str] = &["status"];
const AFFILIATE_ID: &[&str] = &["affiliate_id"];
const CUSTOMER_ID: &[&str] = &["customer_id"];

/// The fields of a postback, as the network sent them.
pub(crate) struct PostbackFields<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

impl<'q> PostbackFields<'q> {
    /// Reads the query and the body, which is a form or a JSON object.
    ///
    /// # Errors
    /// When the body is JSON that cannot be read, or has a value that is no text, number or
    /// boolean.
    pub(crate) fn read(query: &'q str, content_type: Option<&str>, body: &'q [u8]) -> Result<Self, Problem> {
        let mut pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let body = without_mark(body).trim_ascii();
        let is_json = media.eq_ignore_ascii_case("application/json") || body.starts_with(b"{");
        if is_json && !body.is_empty() {
            let fields: BTreeMap<String, Value> = json::parse(body)?;
            for (name, value) in fields {
                let text = match value {
                    Value::String(text) => text,
                    Value::Number(number) => number.to_string(),
                    Value::Bool(value) => value.to_string(),
                    Value::Null => continue,
                    Value::Array(_) | Value::Object(_) => {
                        let reason = "is a list or an object, must be a text or a number";
                        return Err(Problem::invalid(vec![FieldError::new(name, reason)]));
                    }
                };
                pairs.push((name.into(), text.into()));
            }
        } else {
            pairs.extend(form_urlencoded::parse(body));
        }
        Ok(Self(pairs))
    }
}

/// Makes a report of a postback; amounts without a currency are in `currency`.
///
/// # Errors
/// With every field that is not valid.
pub(crate) fn report(fields: PostbackFields<'_>, currency: Currency) -> Result<Reported, Vec<FieldError>> {
    let mut fields = QueryFields { pairs: fields.0, errors: Vec::new() };
    let click_id = match fields.take(CLICK_ID) {
        None => {
            // A change of an order's status may come without its click.
            let known = fields.take(ORDER_ID).is_some() || fields.take(CUSTOMER_ID).is_some();
            if !known {
                fields.wrong("click_id", "is missing: put the network's macro for the click id here");
            }
            None
        }
        Some(text) => match text.parse() {
            Ok(id) => Some(id),
            Err(error) => {
                fields.wrong("click_id", format!("{error}"));
                None
            }
        },
    };
    let currency = match fields.take(CURRENCY).map(|code| money::currency(&code)) {
        None => currency,
        Some(Ok(given)) => given,
        Some(Err(reason)) => {
            fields.wrong("currency", reason);
            currency
        }
    };
    let mut written = Vec::new();
    let amount = fields.amount(PAYOUT, currency, &mut written);
    let commission = fields.amount(COMMISSION, currency, &mut written);
    let mut text = |names| fields.take(names).map(Cow::into_owned);
    let reported = Reported {
        click_id,
        name: text(NAMES).unwrap_or_else(|| NAME.to_owned()),
        order_id: text(ORDER_ID),
        product: text(PRODUCT),
        amount,
        commission,
        affiliate_id: text(AFFILIATE_ID),
        customer_id: text(CUSTOMER_ID),
        status: text(STATUS),
        timestamp: None,
        metadata: written.iter().map(|(name, text)| (*name, text.as_str())).collect(),
    };
    if fields.errors.is_empty() { Ok(reported) } else { Err(fields.errors) }
}

struct QueryFields<'q> {
    pairs: Vec<(Cow<'q, str>, Cow<'q, str>)>,
    errors: Vec<FieldError>,
}

impl<'q> QueryFields<'q> {
    /// Returns the one value under any of `names`. Where a network does not know a
    /// value, it sends an empty one, or leaves the macro in its place: neither counts.
    fn take(&mut self, names: &[&'static str]) -> Option<Cow<'q, str>> {
        let mut values = self
            .pairs
            .iter()
            .filter(|(name, value)| names.contains(&&**name) && !value.is_empty() && !is_placeholder(value))
            .map(|(_, value)| value);
        let first = values.next()?.clone();
        if values.any(|value| *value != first) {
            self.wrong(names[0], format!("has several values ({}): give one", names.join(", ")));
        }
        Some(first)
    }

    /// Returns the amount under any of `names`. Where the amount had to be rounded, its
    /// text goes to `written`.
    fn amount(
        &mut self,
        names: &[&'static str],
        currency: Currency,
        written: &mut Vec<(&'static str, String)>,
    ) -> Option<Amount> {
        let text = self.take(names)?;
        match money::rounded(&text, currency) {
            Ok((amount, exact)) => {
                if !exact {
                    written.push((names[0], text.into_owned()));
                }
                Some(amount)
            }
            Err(reason) => {
                self.wrong(names[0], reason);
                None
            }
        }
    }

    fn wrong(&mut self, field: &str, reason: impl Into<String>) {
        self.errors.push(FieldError::new(field, reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLICK: &str = "clk_01KH0FTEXX7000000000000000";

    fn read_with(query: &str) -> Result<Reported, Vec<FieldError>> {
        let query = query.replace("CLICK", CLICK);
        report(PostbackFields::read(&query, None, b"").unwrap(), Currency::USD)
    }

    fn read_body(query: &str, content_type: &str, body: &str) -> Result<Reported, Vec<FieldError>> {
        let (query, body) = (query.replace("CLICK", CLICK), body.replace("CLICK", CLICK));
        let fields = PostbackFields::read(&query, Some(content_type), body.as_bytes());
        fields.map_err(|problem| problem.errors).and_then(|fields| report(fields, Currency::USD))
    }

    #[test]
    fn fields_may_be_in_the_body() {
        let query = read_with("cid=CLICK&payout=12.5&et=lead&txid=7").unwrap();
        for (rest, content_type, body) in [
            ("", "application/x-www-form-urlencoded", "cid=CLICK&payout=12.5&et=lead&txid=7"),
            ("", "", "cid=CLICK&payout=12.5&et=lead&txid=7\r\n"),
            ("cid=CLICK&et=lead", "application/x-www-form-urlencoded; charset=UTF-8", "payout=12.50&txid=7"),
            ("", "application/json", r#"{"cid":"CLICK","payout":12.5,"et":"lead","txid":7,"x":null,"y":true}"#),
            ("txid=7", "text/plain", " {\"cid\":\"CLICK\",\"payout\":\"12.5\",\"et\":\"lead\",\"txid\":\"7\"}"),
            ("cid=CLICK&txid=7&payout=12.5&et=lead", "application/json", ""),
            ("", "Application/JSON", "\u{feff}{\"cid\":\"CLICK\",\"payout\":12.5,\"et\":\"lead\",\"txid\":\"7\"}"),
        ] {
            assert_eq!(read_body(rest, content_type, body).as_ref(), Ok(&query), "{rest} {content_type} {body}");
        }
        for (rest, content_type, body, field) in [
            ("cid=CLICK&txid=7", "", "txid=8", "order_id"),
            ("", "application/json", r#"{"cid":"CLICK","payout":[1]}"#, "payout"),
            ("", "application/json", r#"[{"cid":"CLICK"}]"#, "(body)"),
            ("", "application/json", r#"{"payout":1}"#, "click_id"),
        ] {
            let errors = read_body(rest, content_type, body).unwrap_err();
            assert_eq!(errors[0].field, field, "{body}");
        }
        assert!(PostbackFields::read("cid=CLICK", Some("application/json"), b"{\"a\":").is_err());
    }

    fn worth(value: i64, currency: &str) -> Option<Amount> {
        Some(Amount { value, currency: currency.to_owned() })
    }

    #[test]
    fn every_parameter_finds_its_field() {
        let query = "click_id=CLICK&name=purchase&order_id=A%2F1&payout=12.5&commission=1&currency=EUR&status=approved\
                     &affiliate_id=a&customer_id=c&product=red+shoes&offer=unknown";
        let reported = read_with(query).unwrap();
        assert_eq!(reported.click_id.unwrap().to_string(), CLICK);
        assert_eq!((reported.name.as_str(), reported.order_id.as_deref()), ("purchase", Some("A/1")));
        assert_eq!((reported.amount, reported.commission), (worth(1250, "EUR"), worth(100, "EUR")));
        assert_eq!((reported.status.as_deref(), reported.product.as_deref()), (Some("approved"), Some("red shoes")));
        assert_eq!((reported.affiliate_id.as_deref(), reported.customer_id.as_deref()), (Some("a"), Some("c")));
    }

    #[test]
    fn other_trackers_words_are_understood() {
        let ours = read_with("click_id=CLICK&payout=3&order_id=7&name=lead").unwrap();
        for theirs in [
            "cid=CLICK&payout=3&txid=7&et=lead",
            "clickid=CLICK&sum=3.00&action_id=7&goal=lead",
            "subid=CLICK&revenue=3&order_id=7&event=lead&tid=1",
        ] {
            assert_eq!(read_with(theirs).unwrap(), ours, "{theirs}");
        }
        let bare = read_with("subid=CLICK").unwrap();
        assert_eq!((bare.name.as_str(), bare.amount, bare.order_id), (NAME, None, None));
    }

    #[test]
    fn what_can_be_understood_is_taken() {
        let reported = read_with("click_id=CLICK&payout=0.0035&commission=1.005&currency=usd").unwrap();
        assert_eq!((reported.amount, reported.commission), (worth(0, "USD"), worth(101, "USD")));
        let written: Vec<_> = reported.metadata.iter().collect();
        assert_eq!(written, [("commission", "1.005"), ("payout", "0.0035")]);
        assert!(read_with("click_id=CLICK&payout=1.50").unwrap().metadata.is_empty());
    }

    #[test]
    fn no_macro_becomes_an_order_or_loses_a_conversion() {
        for nothing in ["(transaction_id)", "${TXID}", "%25TXID%25", "__TXID__", "undefined", "null", "(not+set)"] {
            let query =
                format!("cid=CLICK&txid={nothing}&payout={nothing}&currency={nothing}&status={nothing}&et={nothing}");
            let reported = read_with(&query).unwrap();
            assert_eq!((reported.order_id, reported.amount, reported.status), (None, None, None), "{nothing}");
            assert_eq!(reported.name, NAME, "{nothing}");
        }
    }

    #[test]
    fn what_a_network_left_empty_is_left_out() {
        let reported = read_with("click_id=CLICK&payout={payout}&order_id=&status=[STATUS]&txid=%23ID%23").unwrap();
        assert_eq!((reported.amount, reported.order_id, reported.status), (None, None, None));
        assert_eq!(read_with("click_id={click_id}").unwrap_err()[0].field, "click_id");
    }

    #[test]
    fn what_is_wrong_is_named_by_our_word() {
        for (query, field) in [
            ("", "click_id"),
            ("click_id=abc", "click_id"),
            ("click_id=CLICK&cid=clk_00000000000000000000000000", "click_id"),
            ("click_id=CLICK&sum=1,5", "payout"),
            ("click_id=CLICK&payout=1&amount=2", "payout"),
            ("click_id=CLICK&commission=x", "commission"),
            ("click_id=CLICK&currency=euro", "currency"),
        ] {
            let errors = read_with(query).unwrap_err();
            assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [field], "{query}");
        }
        assert_eq!(read_with("payout=x&currency=y").unwrap_err().len(), 3);
        assert!(read_with("click_id=CLICK&cid=CLICK").is_ok());
    }
}
