//! A peer that was away for so long that the journal no longer has what it missed.

use super::{account_at, configure, deliver, equal, login, mesh, message, named, node, wait_for};
use understudy_tests::agent;

#[test]
fn a_peer_away_past_the_journals_bound_is_resynchronised_while_users_work() {
    let name = "a_peer_away_past_the_journals_bound_is_resynchronised_while_users_work";
    let Some(mesh) = mesh(name, 10, &["--level", "local"]) else { return };
    let state = mesh.state().clone();
    mesh.kill("node1", "agent", "KILL").expect("kills");
    configure(&state, "node1", |text| {
        text.replace("bytes_max = \"256 MiB\"", "bytes_max = \"17 MiB\"")
            .replace("segment_bytes = \"8 MiB\"", "segment_bytes = \"4100 KiB\"")
    });
    mesh.start("node1", "agent").expect("starts");
    // Two of one group, one of another, one whose active node is the one that goes.
    let [busy, quiet, other, theirs] = ["u0001", "u0009", "u0003", "u0002"].map(|name| named(&state, name));
    for account in [&busy, &quiet, &other, &theirs] {
        deliver(&state, account, &message("before"));
        equal(&state, account);
    }

    mesh.kill("node2", "agent", "KILL").expect("kills");
    let mut user = login(&state, &busy, "node1");
    let socket = node(&state, "node1").admin_socket.clone();
    user.command("CREATE Work/Deep").expect("creates");
    user.append("Work/Deep", "", message("deep").as_bytes()).expect("appends");
    deliver(&state, &other, &message("missed"));
    user.command("SELECT INBOX").expect("selects");
    let mut rounds = 0_u32;
    let told = wait_for("`resync needed`", || {
        for _ in 0..300 {
            let sign = if rounds.is_multiple_of(2) { '+' } else { '-' };
            user.command(&format!("STORE 1 {sign}FLAGS (\\Flagged $round{})", rounds % 7))
                .map_err(|e| e.to_string())?;
            rounds += 1;
        }
        let status = agent::status(&socket).map_err(|e| e.to_string())?;
        let group = status["groups"].as_array().and_then(|all| all.iter().find(|g| g["id"] == 0)).cloned();
        let group = group.ok_or("no group 0")?;
        if group["peers"][0]["resync_needed"] == true {
            Ok(group)
        } else {
            Err(format!("after {rounds} changes: {group}"))
        }
    });
    println!("past 17 MiB of journal after {rounds} changes: {told}");
    let account = account_at(&state, "node1", &busy.name);
    assert_eq!(account["replicas"][0]["state"], "resync-needed", "{account}");
    deliver(&state, &quiet, &message("late"));

    mesh.start("node2", "agent").expect("starts");
    // New operations go on while accounts are copied.
    for n in 0..40 {
        user.append("Work/Deep", "(\\Seen)", message(&format!("during-{n}")).as_bytes()).expect("appends");
        user.command(&format!("STORE 1 +FLAGS ($n{n})")).expect("stores");
    }
    user.logout();
    for account in [&busy, &quiet, &other, &theirs] {
        equal(&state, account);
    }
    let status = agent::status(&socket).expect("answers");
    let needed = status["groups"].as_array().into_iter().flatten().any(|g| g["peers"][0]["resync_needed"] == true);
    assert!(!needed, "{}", status["groups"]);
    // And it goes on by frames from there.
    deliver(&state, &busy, &message("after"));
    equal(&state, &busy);
    mesh.down().expect("nothing is left behind");
}
