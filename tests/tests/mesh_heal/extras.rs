//! What is neither message nor mailbox: METADATA and subscriptions.

use super::{equal, login, mesh, named};
use understudy_tests::imap::{Imap, Value};

/// The value of an entry, as `GETMETADATA` gives it.
fn entry(imap: &mut Imap, mailbox: &str, key: &str) -> Option<String> {
    let reply = imap.command(&format!("GETMETADATA \"{mailbox}\" {key}")).expect("answers");
    reply.untagged.iter().find_map(|parts| match &parts[..] {
        [Value::Atom(word), _, Value::List(items)] if word == "METADATA" => items.get(1)?.text(),
        _ => None,
    })
}

#[test]
fn metadata_and_subscriptions_are_there_on_the_replica() {
    let name = "metadata_and_subscriptions_are_there_on_the_replica";
    let Some(mesh) = mesh(name, 2, &[]) else { return };
    let state = mesh.state().clone();
    let account = named(&state, "u0001");
    let mut imap = login(&state, &account, "node1");
    imap.command("CREATE Plans/2026").expect("creates");
    for (mailbox, key, value) in [
        ("INBOX", "/private/comment", "mine alone"),
        ("Plans/2026", "/shared/comment", "for all"),
        ("Plans/2026", "/private/vendor/x", "a \\\"quoted\\\" word"),
        ("", "/private/vendor/theme", "dark"),
    ] {
        imap.command(&format!("SETMETADATA \"{mailbox}\" ({key} \"{value}\")")).expect("sets");
    }
    imap.command("SETMETADATA INBOX (/private/gone \"x\")").expect("sets");
    imap.command("SETMETADATA INBOX (/private/gone NIL)").expect("removes");
    imap.command("SUBSCRIBE Plans/2026").expect("subscribes");
    imap.command("SUBSCRIBE INBOX").expect("subscribes");
    imap.command("UNSUBSCRIBE INBOX").expect("unsubscribes");
    imap.logout();
    equal(&state, &account);
    let mut imap = login(&state, &account, "node2");
    let mut got = |mailbox: &str, key: &str| entry(&mut imap, mailbox, key);
    assert_eq!(got("INBOX", "/private/comment").as_deref(), Some("mine alone"));
    assert_eq!(got("Plans/2026", "/shared/comment").as_deref(), Some("for all"));
    assert_eq!(got("Plans/2026", "/private/vendor/x").as_deref(), Some("a \"quoted\" word"));
    assert_eq!(got("", "/private/vendor/theme").as_deref(), Some("dark"));
    assert_eq!(got("INBOX", "/private/gone"), None);
    let subscribed: Vec<String> = imap.subscribed().expect("lists").into_iter().collect();
    assert_eq!(subscribed, ["Plans/2026"]);
    imap.logout();
    mesh.down().expect("nothing is left behind");
}
