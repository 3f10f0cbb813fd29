//! The grammar, and the commands against an agent that answers from constants.

use super::*;

#[test]
fn the_grammar_is_sound_and_lists_every_command() {
    command().debug_assert();
    let help = command().render_help().to_string();
    for name in ["agent", "status", "top", "verify", "resync", "rules", "reload", "cert", "config", "doctor"] {
        assert!(help.contains(&format!("\n  {name} ")), "{name}\n{help}");
    }
    assert!(help.contains("Exit codes:"));
}
