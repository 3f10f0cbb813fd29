//! Rules as an administrator would write them, and what they say about accounts.

use super::*;
use std::io::Write as _;

fn rules(text: &str) -> Rules {
    let (rules, problems) = Rules::build(&config(text));
    assert_eq!(problems, [], "{text}");
    rules
}

fn config(text: &str) -> Config {
    let head = "[node]\nid = 1\nname = \"a\"\n[[peers]]\nid = 2\nname = \"b\"\naddress = \"b:1\"\n[[peers]]\nid = 3\nname = \"c\"\naddress = \"c:1\"\n";
    Config::from_toml(&format!("{head}{text}")).unwrap()
}

fn refused(text: &str) -> String {
    let head = "[node]\nid = 1\nname = \"a\"\n[[peers]]\nid = 2\nname = \"b\"\naddress = \"b:1\"\n";
    Config::from_toml(&format!("{head}{text}")).unwrap_err().to_string()
}

#[test]
fn without_rules_every_account_is_replicated_and_durable_here() {
    let rules = rules("");
    let resolved = rules.resolve("u@example.test");
    assert!(resolved.replicate);
    assert_eq!((resolved.level, resolved.rule), (Level::Local, None));
    assert!(resolved.kinds.contains(1) && resolved.kinds.contains(11) && resolved.kinds.contains(999));
}

#[test]
fn the_first_rule_that_matches_wins_and_no_match_means_not_replicated() {
    let rules = rules(
        "[[rules]]\naccounts = [\"boss@*\"]\nlevel = \"peer:2\"\n[[rules]]\nname = \"all of x\"\ndomains = [\"X.test\"]\nlevel = \"none\"\n",
    );
    assert_eq!(rules.resolve("boss@x.test").level, Level::Peer(2));
    assert_eq!(rules.resolve("other@x.test").rule_name, "all of x");
    assert_eq!(rules.resolve("other@X.TEST").rule, Some(1));
    let none = rules.resolve("other@y.test");
    assert!(!none.replicate && none.rule.is_none());
    assert!(!rules.resolve("x.test").replicate, "a name without `@` is in no domain");
}

#[test]
fn exclusions_take_an_account_out_of_one_rule_only() {
    let rules = rules(
        "[[rules]]\nexclude = [\"t-*\"]\nlevel = \"peer\"\n[[rules]]\naccounts = [\"t-?@x\"]\nlevel = \"none\"\n",
    );
    assert_eq!(rules.resolve("u@x").rule, Some(0));
    assert_eq!(rules.resolve("t-1@x").rule, Some(1));
    assert_eq!(rules.resolve("t-11@x").rule, None);
}

#[test]
fn classes_and_files_name_accounts() {
    let dir = tempfile::tempdir().unwrap();
    let (list, vip) = (dir.path().join("list"), dir.path().join("vip"));
    writeln!(std::fs::File::create(&list).unwrap(), "# staff\n a@x  \n\nb@x # left\n").unwrap();
    std::fs::write(&vip, "v@x").unwrap();
    let rules = rules(&format!(
        "[classes.vip]\naccounts = [\"ceo@*\", \"cfo@x\"]\nfile = \"{}\"\n[[rules]]\nclasses = [\"vip\"]\nlevel = \"peer\"\n[[rules]]\nfile = \"{}\"\n",
        vip.display(),
        list.display()
    ));
    for (account, rule) in
        [("ceo@z", Some(0)), ("v@x", Some(0)), ("a@x", Some(1)), ("b@x", Some(1)), ("# staff", None), ("", None)]
    {
        assert_eq!(rules.resolve(account).rule, rule, "{account}");
    }
    assert_eq!(rules.named_accounts(), ["a@x", "b@x", "cfo@x", "v@x"]);
}

#[test]
fn a_list_that_is_gone_is_a_problem_and_matches_nobody() {
    let (rules, problems) = Rules::build(&config("[[rules]]\nfile = \"/nonexistent/list\"\n"));
    assert!(!rules.resolve("u@x").replicate);
    assert!(problems[0].to_string().contains("rules[0].file"), "{problems:?}");
}

#[test]
fn kinds_are_included_and_excluded_by_class_and_by_name() {
    let rules =
        rules("[[rules]]\nkinds.include = [\"mailboxes\", \"messages\", \"flags\"]\nkinds.exclude = [\"flags\"]\n");
    let kinds = rules.resolve("u").kinds;
    assert_eq!(kinds.names(), ["mailboxes", "messages"]);
    assert!(!kinds.contains(10) && !kinds.contains(5) && kinds.contains(7));
    assert!(kinds.contains(13), "the agents' own kinds are never excluded");
}

#[test]
fn what_cannot_work_is_refused_with_its_remedy() {
    for (text, wanted) in [
        (
            "[[rules]]\nkinds.include = [\"mailboxes\", \"flags\"]\n",
            "`flags` cannot be replayed without all of `messages`",
        ),
        ("[[rules]]\nkinds.include = [\"mesages\"]\n", "did you mean `messages`?"),
        ("[[rules]]\nclasses = [\"vpi\"]\n[classes.vip]\naccounts = [\"a\"]\n", "did you mean `vip`?"),
        ("[[rules]]\nlevel = \"peer:2\"\n", "waits for 2 peers, and there are 1"),
        ("[[rules]]\naccounts = [\"a[\"]\n", "is no pattern"),
    ] {
        let said = refused(text);
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn levels_read_what_they_print() {
    for level in [Level::None, Level::Local, Level::Peer(1), Level::Peer(15)] {
        assert_eq!(Level::parse(&level.to_string()), Some(level));
    }
    for text in ["", "peer:", "peer:0", "peer:16", "Local", "peer:-1"] {
        assert_eq!(Level::parse(text), None, "{text}");
    }
}
