//! The programs that fetch a page for a person: for a preview of a link, or because an
//! assistant was asked.

/// Programs that show a link's title and picture, with the name of each.
pub(crate) const PREVIEWS: &[(&str, &str)] = &[
    ("facebookexternalhit", "facebookexternalhit"),
    ("|facebot", "Facebot"),
    ("|whatsapp/", "WhatsApp"),
    ("telegrambot", "TelegramBot"),
    ("slackbot", "Slackbot"),
    ("slack-imgproxy", "Slack-ImgProxy"),
    ("slack-ss", "Slack"),
    ("discordbot", "Discordbot"),
    ("twitterbot", "Twitterbot"),
    ("linkedinbot", "LinkedInBot"),
    ("skypeuripreview", "SkypeUriPreview"),
    ("|pinterest/0", "Pinterest"),
    ("pinterestbot", "Pinterestbot"),
    ("|mastodon/", "Mastodon"),
    ("|mastodon", "Mastodon"),
    ("|http.rb/", "http.rb"),
    ("|pleroma", "Pleroma"),
    ("|akkoma", "Akkoma"),
    ("|misskey/", "Misskey"),
    ("|sharkey/", "Sharkey"),
    ("|lemmy/", "Lemmy"),
    ("|friendica", "Friendica"),
    ("|gotosocial", "GoToSocial"),
    ("|peertube", "PeerTube"),
    ("|pixelfed", "Pixelfed"),
    ("iframely", "Iframely"),
    ("|cardyb", "Bluesky Cardyb"),
    ("|bluesky cardyb", "Bluesky Cardyb"),
    ("embedly", "Embedly"),
    ("redditbot", "redditbot"),
    ("vkshare", "vkShare"),
    ("bitlybot", "bitlybot"),
    ("snap url preview", "Snapchat"),
    ("bingpreview", "BingPreview"),
    ("google web preview", "Google Web Preview"),
    ("kakaotalk-scrap", "KakaoTalk"),
    ("|line-poker/", "LINE"),
    ("notionembedder", "Notion"),
    ("|zulipurlpreview", "Zulip"),
    ("|synapse/", "Synapse"),
    ("|synapse (", "Synapse"),
    ("|mattermost-bot", "Mattermost"),
    ("|rocket.chat", "Rocket.Chat"),
    ("quora link preview", "Quora"),
    ("discourse forum onebox", "Discourse"),
    ("flipboardproxy", "Flipboard"),
    ("|nuzzel", "Nuzzel"),
    ("embed php", "Embed"),
    ("valve/steam http", "Steam"),
    ("|tumblr/", "Tumblr"),
    ("xing-contenttab", "XING"),
];

/// The part of the names of other programs that show previews.
pub(crate) const PREVIEW_WORDS: &[&str] = &["preview|", "unfurl", "linkexpand", "|onebox", "|oembed"];

/// Programs that fetch a page because a person has just asked an assistant.
pub(crate) const ASSISTANTS: &[(&str, &str)] = &[
    ("chatgpt-user", "ChatGPT-User"),
    ("|chatgpt agent", "ChatGPT agent"),
    ("claude-user", "Claude-User"),
    ("perplexity-user", "Perplexity-User"),
    ("mistralai-user", "MistralAI-User"),
    ("gemini-deep-research", "Gemini-Deep-Research"),
    ("googleagent-", "GoogleAgent"),
    ("|google-agent", "Google-Agent"),
    ("google-notebooklm", "Google-NotebookLM"),
    ("meta-externalfetcher", "meta-externalfetcher"),
    ("duckassistbot", "DuckAssistBot"),
    ("|amzn-user", "Amzn-User"),
    ("|novaact", "NovaAct"),
    ("|cohere-ai", "cohere-ai"),
    ("manus-user", "Manus-User"),
    ("|devin/", "Devin"),
];

/// The end of the names of other assistants, such as `Name-User/1.0`.
pub(crate) const ASSISTANT_WORDS: &[&str] = &["-user/"];
