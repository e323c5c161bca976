//! One pass over a user agent: an automaton finds every token of `tables/` at once,
//! and the signs say which of them count where they stand.

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError};

use super::tables::{
    browsers,
    devices::{self, System},
    helpers, programs,
};

/// The longest name that is taken from a user agent, in bytes.
const NAME_BYTES: usize = 32;

/// The meaning of a token.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    Engine,
    CompatibleBrowser,
    Compatible,
    Link,
    HostEnd,
    MailSign,
    Crawler,
    CrawlerInModel,
    Word(&'static str),
    Preview(&'static str),
    PreviewWord,
    Assistant(&'static str),
    AssistantWord,
    App(&'static str),
    Browser(usize, &'static str),
    System(usize, System),
    Television,
    Tablet,
    Platform(Platform),
    Mobile,
    ChromeVersion,
    IosBrowser,
    SafariVersion,
    AppSystemVersion,
}

/// The platform that a user agent tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Platform {
    Windows,
    Android,
    Ipad,
    Iphone,
    Mac,
    ChromeOs,
    Linux,
}

/// A token without the marks at its ends.
struct Token {
    meaning: Meaning,
    /// Whether neither a letter nor a digit may stand before it, or behind it.
    starts_word: bool,
    ends_word: bool,
}

/// The automaton over all tokens.
pub(super) struct Tokens {
    automaton: AhoCorasick,
    tokens: Vec<Token>,
}

/// The signs that a user agent has.
#[derive(Debug, Default)]
pub(super) struct Signs<'a> {
    pub(super) engine: bool,
    pub(super) link: bool,
    pub(super) compatible: bool,
    pub(super) compatible_browser: bool,
    pub(super) television: bool,
    pub(super) tablet: bool,
    pub(super) mobile: bool,
    /// The name of a crawler that is known by a part of its name.
    pub(super) crawler: Option<&'a str>,
    pub(super) word: Option<&'static str>,
    pub(super) preview: Option<&'a str>,
    pub(super) assistant: Option<&'a str>,
    pub(super) app: Option<&'static str>,
    pub(super) browser: Option<FoundToken<&'static str>>,
    pub(super) system: Option<FoundToken<System>>,
    pub(super) platform: Option<Platform>,
    /// Where the versions begin that stand behind `Chrome/`, `CriOS/`, `Version/`, and an
    /// app's word for the system under it.
    pub(super) chrome: Option<usize>,
    pub(super) ios_browser: bool,
    pub(super) safari: Option<usize>,
    pub(super) app_system: Option<usize>,
}

/// A named thing, and the place behind its token. Of several, the lowest rank counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundToken<T> {
    pub(super) rank: usize,
    pub(super) name: T,
    pub(super) end: usize,
}

impl Tokens {
    /// Builds the automaton of all tables.
    pub(super) fn new() -> Result<Self, BuildError> {
        let mut texts = Vec::new();
        let mut tokens = Vec::new();
        for (marked, meaning) in all() {
            let text = marked.trim_matches('|');
            texts.push(text);
            tokens.push(Token { meaning, starts_word: marked.starts_with('|'), ends_word: marked.ends_with('|') });
        }
        let automaton =
            AhoCorasick::builder().ascii_case_insensitive(true).kind(Some(AhoCorasickKind::DFA)).build(texts)?;
        Ok(Self { automaton, tokens })
    }

    /// Reads the signs of a user agent.
    pub(super) fn read<'a>(&self, text: &'a str) -> Signs<'a> {
        let bytes = text.as_bytes();
        let mut signs = Signs::default();
        // A model may be called anything, bots and spiders included: from `Android` to the
        // end of the build or the brackets, words say nothing.
        let mut model_end = 0;
        for found in self.automaton.find_overlapping_iter(text) {
            let token = &self.tokens[found.pattern().as_usize()];
            let (start, end) = (found.start(), found.end());
            if token.starts_word && start > 0 && bytes[start - 1].is_ascii_alphanumeric()
                || token.ends_word && bytes.get(end).is_some_and(u8::is_ascii_alphanumeric)
            {
                continue;
            }
            if matches!(token.meaning, Meaning::Platform(Platform::Android)) && start >= model_end {
                model_end = end_of_model(bytes, end);
            }
            signs.note(token.meaning, text, start..end, start < model_end);
        }
        signs
    }
}

/// All tokens with their meanings.
fn all() -> impl Iterator<Item = (&'static str, Meaning)> {
    let plain = |tokens: &'static [&'static str], meaning: Meaning| tokens.iter().map(move |token| (*token, meaning));
    let fixed = [
        ("(compatible", Meaning::Compatible),
        ("; compatible;", Meaning::Compatible),
        // Browsers close the bracket behind their engine's word.
        ("like gecko;", Meaning::Compatible),
        ("@", Meaning::MailSign),
        ("(at)", Meaning::MailSign),
        ("windows", Meaning::Platform(Platform::Windows)),
        ("android", Meaning::Platform(Platform::Android)),
        ("; adr ", Meaning::Platform(Platform::Android)),
        ("ipad", Meaning::Platform(Platform::Ipad)),
        ("iphone", Meaning::Platform(Platform::Iphone)),
        ("ipod", Meaning::Platform(Platform::Iphone)),
        ("macintosh", Meaning::Platform(Platform::Mac)),
        ("|cros ", Meaning::Platform(Platform::ChromeOs)),
        ("linux", Meaning::Platform(Platform::Linux)),
        ("|mobile|", Meaning::Mobile),
        (" chrome/", Meaning::ChromeVersion),
        ("crios/", Meaning::IosBrowser),
        ("fxios/", Meaning::IosBrowser),
        ("edgios/", Meaning::IosBrowser),
        ("version/", Meaning::SafariVersion),
        ("; ios ", Meaning::AppSystemVersion),
        ("fbsv/", Meaning::AppSystemVersion),
    ];
    plain(browsers::ENGINES, Meaning::Engine)
        .chain(plain(browsers::COMPATIBLE_BROWSERS, Meaning::CompatibleBrowser))
        .chain(plain(programs::LINKS, Meaning::Link))
        .chain(plain(programs::HOST_ENDS, Meaning::HostEnd))
        .chain(plain(programs::CRAWLERS, Meaning::Crawler))
        .chain(plain(programs::CRAWLERS_IN_MODELS, Meaning::CrawlerInModel))
        .chain(programs::WORDS.iter().map(|word| (*word, Meaning::Word(word.trim_matches(['|', '/', ' ', '(', ')'])))))
        .chain(helpers::PREVIEWS.iter().map(|(token, name)| (*token, Meaning::Preview(name))))
        .chain(plain(helpers::PREVIEW_WORDS, Meaning::PreviewWord))
        .chain(helpers::ASSISTANTS.iter().map(|(token, name)| (*token, Meaning::Assistant(name))))
        .chain(plain(helpers::ASSISTANT_WORDS, Meaning::AssistantWord))
        .chain(browsers::APPS.iter().map(|(token, name)| (*token, Meaning::App(name))))
        .chain(
            browsers::BROWSERS.iter().enumerate().map(|(rank, (token, name))| (*token, Meaning::Browser(rank, name))),
        )
        .chain(
            devices::SYSTEMS.iter().enumerate().map(|(rank, (token, system))| (*token, Meaning::System(rank, *system))),
        )
        .chain(plain(devices::TELEVISIONS, Meaning::Television))
        .chain(plain(devices::TABLETS, Meaning::Tablet))
        .chain(fixed)
}

impl<'a> Signs<'a> {
    fn note(&mut self, meaning: Meaning, text: &'a str, at: std::ops::Range<usize>, in_model: bool) {
        match meaning {
            Meaning::Engine => self.engine = true,
            Meaning::CompatibleBrowser => self.compatible_browser = true,
            Meaning::Link => self.link = true,
            Meaning::Television => self.television = true,
            Meaning::Tablet => self.tablet |= in_model,
            Meaning::Platform(platform) => {
                self.platform = Some(self.platform.map_or(platform, |old| old.min(platform)));
            }
            Meaning::Mobile => self.mobile = true,
            Meaning::ChromeVersion => self.chrome = self.chrome.or(Some(at.end)),
            Meaning::IosBrowser => self.ios_browser = true,
            Meaning::SafariVersion => self.safari = self.safari.or(Some(at.end)),
            Meaning::AppSystemVersion => self.app_system = self.app_system.or(Some(at.end)),
            Meaning::System(rank, name) => {
                keep_lowest(&mut self.system, FoundToken { rank, name, end: at.end });
            }
            Meaning::CrawlerInModel => self.crawler = self.crawler.or_else(|| Some(name_around(text, at))),
            // What stands in a model says nothing about the program.
            _ if in_model => {}
            Meaning::Compatible => self.compatible = true,
            Meaning::HostEnd => self.link |= is_end_of_host(text.as_bytes(), &at),
            Meaning::MailSign => self.link |= is_mail_address(text, &at),
            Meaning::Crawler => self.crawler = self.crawler.or_else(|| Some(name_around(text, at))),
            Meaning::Word(word) => self.word = self.word.or(Some(word)),
            Meaning::Preview(name) => self.preview = self.preview.or(Some(name)),
            Meaning::PreviewWord => self.preview = self.preview.or_else(|| Some(name_around(text, at))),
            Meaning::Assistant(name) => self.assistant = self.assistant.or(Some(name)),
            Meaning::AssistantWord => self.assistant = self.assistant.or_else(|| Some(name_around(text, at))),
            Meaning::App(app) => self.app = self.app.or(Some(app)),
            Meaning::Browser(rank, name) => {
                keep_lowest(&mut self.browser, FoundToken { rank, name, end: at.end });
            }
        }
    }
}

fn keep_lowest<T>(kept: &mut Option<FoundToken<T>>, found: FoundToken<T>) {
    if kept.as_ref().is_none_or(|kept| found.rank < kept.rank) {
        *kept = Some(found);
    }
}

/// Returns where the model ends that begins behind `Android` at `from`.
fn end_of_model(bytes: &[u8], from: usize) -> usize {
    let rest = &bytes[from..];
    let brackets = rest.iter().position(|byte| *byte == b')').unwrap_or(rest.len());
    from + brackets
}

/// Whether a dot and a top domain at `at` end a host name. A version such as `1.7.494.US`
/// has a digit before the dot, and the name of a package goes on with another dot.
fn is_end_of_host(bytes: &[u8], at: &std::ops::Range<usize>) -> bool {
    let is_country = at.len() == ".us".len();
    let named =
        bytes[..at.start].last().is_some_and(|byte| byte.is_ascii_alphabetic() || !is_country && byte.is_ascii_digit());
    named && bytes.get(at.end) != Some(&b'.')
}

/// Whether an `@` at `at` belongs to a mail address: its host ends in letters, which
/// versions such as `android@150.0.0.0` do not.
fn is_mail_address(text: &str, at: &std::ops::Range<usize>) -> bool {
    let host = text[at.end..].split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-')).next();
    let named = text.as_bytes()[..at.start].last().is_some_and(u8::is_ascii_alphanumeric);
    let top = host.and_then(|host| host.trim_end_matches('.').rsplit_once('.')).map_or("", |(_, top)| top);
    named && top.len() >= 2 && top.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// Returns the word around a token: the name of a product, of at most [`NAME_BYTES`].
fn name_around(text: &str, token: std::ops::Range<usize>) -> &str {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    let before = bytes[..token.start].iter().rev().take(NAME_BYTES).take_while(|byte| of_name(byte)).count();
    let rest = &bytes[token.start..];
    let behind = rest.iter().take(NAME_BYTES).take_while(|byte| of_name(byte)).count();
    let start = token.start - before;
    let end = (token.start + behind).min(start + NAME_BYTES);
    // Only ASCII was stepped over.
    text.get(start..end).unwrap_or_default().trim_matches(['-', '_', '.'])
}
