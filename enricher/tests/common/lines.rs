//! Lines to start from: as redirectors write them, and as nobody should. Also what
//! fuzzing starts from.

/// Bundles, most of them of one line.
pub(crate) const BUNDLES: [&str; 14] = [
    concat!(
        r#"{"v":1,"id":"clk_01KGQ7ZJ4GE01A80000000002A","class":"click","ip":"203.0.113.42","#,
        r#""user_agent":"Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "#,
        r#"Version/17.0 Mobile/15E148 Safari/604.1","referer":"https://instagram.com","query":"utm_source=instagram&fbclid=x","#,
        r#""workspace":"default","link":{"id":"lnk_0000000000000000000000000Z","short_url":"https://go.acme.co/sale","#,
        r#""destination":"https://acme.com/?utm_source=own&creative=%7B%7Bad.id%7D%7D#x","slug":"sale","tags":["social"]}}"#
    ),
    concat!(
        r#"{"v":1,"id":"clk_01KGQ7ZJ4GE01A80000000002B","class":"qr","rate_limited":true,"ip":"2001:db8::1","#,
        r#""hints":"b=Brave,p=Android,m=1,f=nav","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","#,
        r#""workspace":"acme","link":{"id":"lnk_0000000000000000000000000Z","short_url":"","destination":"","slug":""}}"#
    ),
    concat!(
        r#"{"v":1,"id":"clk_01KGQ7ZJ4GE01A80000000002C","class":"orphan","ip":"::ffff:203.0.113.42","query":"qr=1","#,
        r#""workspace":"default","asked":"go.acme.co/\"x"}"#
    ),
    r#"{"v":1,"id":"clk_01KGQ7ZJ4GE01A80000000002D","class":"click","ip":"203.0.113.42","workspace":"default"}"#,
    r#"{"v":2,"id":"clk_01KGQ7ZJ4GE01A80000000002D","class":"click","ip":"203.0.113.42","workspace":"default","link":null}"#,
    concat!(
        r#"{"v":1,"link":null,"id":"clk_01KGQ7ZJ4GE01A80000000002D","class":"click","ip":"a","workspace":"\u0000","#,
        r#""link":{"id":"lnk_0000000000000000000000000Z","short_url":"a","destination":"b","slug":"c"}}"#
    ),
    concat!(
        r#"{"v":1,"id":"clk_7ZZZZZZZZZZZZZZZZZZZZZZZZZ","class":"click","ip":"1.1.1.1","workspace":"w","x":[{"link":{}}],"#,
        r#""query":",\"link\":{","link":{"slug":"a\\","id":"lnk_7ZZZZZZZZZZZZZZZZZZZZZZZZZ","short_url":"\ud83d\ude00","#,
        r#""destination":"android-app://x?a","campaign":null,"y":{"z":[1,2e3,null,true]}},"z":1}"#
    ),
    concat!(
        r#"{"v":1,"id":"clk_00000000000000000000000000","class":"click","ip":"0.0.0.0","user_agent":" ","referer":"\u0001","#,
        r#""query":"utm_source=%00%ff&utm_medium[]=e%2525mail&amp;utm_campaign=a?utm_term=b&gclid=&mc_eid=1&utm_content=a@b.example","#,
        r#""workspace":"","link":{"id":"lnk_00000000000000000000000000","short_url":"https://[::1","#,
        r#""destination":"https://a.example/?ad_id={ad}&UTM_SOURCE=x%26utm_medium%3Dy","slug":"s","segment":"","tags":["",""]}}"#
    ),
    "{}\n[]\nnull\n\"\"\n1e999\n\u{feff}{}\n",
    "\n\n\r\n",
    "",
    r#"{"v":1,"id":"clk_","class":"click"}"#,
    r#"{"v":-1,"id":7,"class":{},"ip":[],"workspace":{"a":1},"link":[]}"#,
    r#"[[[[[[[[[[[[[[[[[[[[{"link":{"link":{"link":{}}}}]]]]]]]]]]]]]]]]]]]]"#,
];

/// Visits: user agent, referrer, query, destination, segment and hints, a line each.
pub(crate) const VISITS: [&str; 12] = [
    concat!(
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36\n",
        "https://www.google.com/\nutm_source=a&utm_medium=b\nhttps://acme.example/\nq1\nb=Brave,p=Android,m=1,f=nav"
    ),
    concat!(
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/22G86 ",
        "Instagram 390.0.0.28.85 (iPhone14,5; iOS 18_6; de_DE; de; scale=3.00; 1170x2532)\nandroid-app://com.Slack/\n",
        "fbclid=IwAR0&referrerAdCreative=story-7&adset_id=__AID__"
    ),
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)\n\ngclid=a%2520b&gclid=c",
    "Mozilla/5.0 (SMART-TV; LINUX; Tizen 5.5) AppleWebKit/537.36 (KHTML, like Gecko) Version/5.5 TV Safari/537.36\nhttps://t.co/x",
    concat!(
        "Mozilla/5.0 (Linux; Android 9; CUBOT_X19 Build/PPR1.180610.011; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 ",
        "Chrome/43.0.5215.1183 Mobile Safari/537.36 musical_ly_2022 BytedanceWebview/d8a21c6\nhttps://jane@a.example/?email=j@b.example#_hsenc=7"
    ),
    "Opera/9.80 (J2ME/MIDP; Opera Mini/7.1.32052/174.101; U; en) Presto/2.12.423 Version/12.16\nhttps://WWW.Acme.Example.:443/x",
    "Mozilla/5.0 (PlayStation; PlayStation 5/2.26) AppleWebKit/605.1.15\nhttps://xn--bcher-kva.example/\nutm_source=%F0%9F%98%80",
    "ChatGPT-User/1.0; +https://openai.com/bot\nhttps://10.0.0.5/\nutm_source=a;utm_medium=b",
    "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36\nhttp://[2001:db8::1]/",
    "curl/8.5.0\nhttps://a\u{308}.example/%ff?u=https%3A%2F%2Fb.example%2F%3Fvero_id%3D7\n?&&==&%&utm_=&utm_source",
    "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; .NET CLR 2.0.50727)\nabout:blank\n?utm_source=%2500&utm_term=%25%25%25",
    "Build/\u{1f600}) Android (; Version/ Chrome/ iPhone OS Mobile\n://\n&amp;amp;utm_source=x?utm_source=y&utm_source=z",
];
