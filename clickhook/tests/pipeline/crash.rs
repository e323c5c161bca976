//! Crash tests: real processes, really killed. Whatever is killed when, every
//! answered redirect is one committed click, one row and one event.

use crate::support::{ClickReceiver, PipelineApi, Up, Visitors, check_promise, folder, set_up, until_redirects};

/// The whole pipeline is killed several times under load: sometimes alone, so
/// that its engines become orphans, sometimes with them.
#[test]
fn nothing_is_lost_or_doubled_when_everything_is_killed() {
    let (_keep, dir) = folder();
    let receiver = ClickReceiver::start();
    let mut up = Up::start(&dir);
    set_up(&PipelineApi::new(up.address("api")), "sale", &receiver);
    until_redirects(up.address("redirect"), "sale");

    let load = Visitors::start(vec![up.address("redirect")], "sale", 8);
    for round in 0..4 {
        load.wait_for(300);
        load.aim(Vec::new());
        if round % 2 == 0 {
            up.kill();
        } else {
            up.kill_all();
        }
        up = Up::start(&dir);
        load.aim(vec![up.address("redirect")]);
    }
    load.wait_for(300);
    let answered = load.stop();
    check_promise(&answered, &up.text("kafka"), "clickhook", &up.text("clickhouse"), "clickhook", &receiver);
}
