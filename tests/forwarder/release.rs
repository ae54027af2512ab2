//! What a release consists of: documentation, bundle, packages.

use std::process::Command;

use crate::host::{Complete, program};

/// The output of a command that succeeds.
#[track_caller]
fn output(program_name: &str, args: &[&str]) -> String {
    let mut command = Command::new(program(&[program_name]));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).env("LC_ALL", "C.UTF-8");
    let output = command.complete();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn man_page_is_free_of_errors() {
    let page = "docs/pgw-forwarder.1";
    assert_eq!(output("mandoc", &["-T", "lint", "-W", "error", page]), "");
    // man prints warnings before the page.
    let page = output("man", &["--warnings", "--local-file", "--encoding=UTF-8", page]);
    assert!(page.starts_with("PGW-FORWARDER(1)"), "{page}");
    for section in ["EXIT STATUS", "ENVIRONMENT", "FILES"] {
        assert!(page.lines().any(|line| line == section), "{section}: {page}");
    }
}

#[test]
fn shells_complete_the_options() {
    let bash = "source docs/completions/pgw-forwarder.bash
        COMP_WORDS=(pgw-forwarder --pgw-a) COMP_CWORD=1
        words=($(complete -p pgw-forwarder))
        for n in ${!words[@]}; do [ \"${words[n]}\" != -F ] || function=${words[n + 1]}; done
        $function pgw-forwarder --pgw-a pgw-forwarder && echo \"${COMPREPLY[@]}\"";
    assert_eq!(output("bash", &["-c", bash]), "--pgw-addr\n");
    let fish = "source docs/completions/pgw-forwarder.fish; complete --do-complete='pgw-forwarder --pgw-a'";
    assert!(output("fish", &["--no-config", "-c", fish]).starts_with("--pgw-addr\t"));
    // zsh completes at a prompt only.
    output("zsh", &["-n", "docs/completions/_pgw-forwarder"]);
}
