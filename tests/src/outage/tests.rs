//! The prober against a server that answers, hangs and refuses as it is told to.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

/// As much of SMTP as the prober speaks; refuses while `down`.
fn server(down: Arc<AtomicBool>) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let down = down.clone();
            std::thread::spawn(move || {
                let mut answers = stream.try_clone().expect("a copy");
                let mut say = |text: &str| answers.write_all(format!("{text}\r\n").as_bytes()).is_ok();
                let busy = down.load(Ordering::Relaxed);
                say(if busy { "421 not now" } else { "220 here" });
                let mut in_data = false;
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let done = in_data && line == ".";
                    if in_data && !done {
                        continue;
                    }
                    in_data = line == "DATA";
                    if !say(if in_data { "354 go on" } else { "250 fine" }) {
                        break;
                    }
                }
            });
        }
    });
    Endpoint { host: "127.0.0.1".to_owned(), port }
}

#[test]
fn an_outage_is_seen_with_its_beginning_and_its_end() {
    let down = Arc::new(AtomicBool::new(false));
    let prober = Prober::start(Setup {
        imap: None,
        smtp: Some(server(down.clone())),
        accounts: vec![("a@example.test".to_owned(), String::new()), ("b@example.test".to_owned(), String::new())],
        interval: Duration::from_millis(10),
        step_timeout: Duration::from_secs(20),
        workers: 4,
        append_every: 0,
    });
    let wait = |since_ms| {
        while !prober.recovered(since_ms) {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait(prober.now_ms());
    down.store(true, Ordering::Relaxed);
    let killed_ms = prober.mark("down");
    std::thread::sleep(Duration::from_millis(300));
    let up_ms = prober.now_ms();
    down.store(false, Ordering::Relaxed);
    wait(up_ms);
    let record = prober.stop();
    let report = record.report();
    assert_eq!(report.marks, [Mark { name: "down".to_owned(), at_ms: killed_ms }]);
    for account in &report.accounts {
        assert!(account.smtp.failed > 0 && account.imap.attempts == 0, "{account:?}");
        let worst = account.smtp.outages.iter().max_by_key(|o| o.length_ms()).expect("an outage");
        assert!(worst.to_ms > up_ms && !worst.open && worst.first_error.contains("421"), "{worst:?}");
        assert!(account.acknowledged > 0 && account.delivery.waiting == account.acknowledged, "{account:?}");
    }
    assert_eq!(record.between(up_ms, up_ms).accounts.len(), 2);
    let text = serde_json::to_string(&record).expect("writes");
    let again: Record = serde_json::from_str(&text).expect("reads");
    assert_eq!(serde_json::to_value(again.report()).expect("writes"), serde_json::to_value(report).expect("writes"));
}
