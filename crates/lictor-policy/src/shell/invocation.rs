//! Finds the `-c` code among a shell's arguments, as POSIX `sh`, `dash` and `bash` read them.

/// Short options that change neither what code runs nor how it is read.
const HARMLESS: &str = "cefnuvx";
/// Names for `-o` of which the same is true.
const HARMLESS_LONG: &[&str] = &[
    "errexit", "noexec", "noglob", "nounset", "pipefail", "posix", "verbose", "xtrace",
];
/// Long options of bash of which the same is true.
const HARMLESS_WORDS: &[&str] = &["--noprofile", "--norc", "--posix"];

/// The code after `-c`: the first operand, wherever `-c` stands among the options. `None` when there is no `-c`, or
/// any option that is not known to be harmless.
pub(super) fn inline_code(args: &[String]) -> Option<&str> {
    let mut inline = false;
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "--" => return args.next().filter(|_| inline),
            _ if HARMLESS_WORDS.contains(&arg) => {}
            "-o" => {
                args.next().filter(|name| HARMLESS_LONG.contains(name))?;
            }
            _ if arg.len() > 1 && arg.starts_with('-') => {
                let letters = &arg[1..];
                if !letters.chars().all(|c| HARMLESS.contains(c)) {
                    return None;
                }
                inline |= letters.contains('c');
            }
            // `-` alone and `+x` are read differently by different shells.
            _ if arg.starts_with(['-', '+']) => return None,
            code => return Some(code).filter(|_| inline),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::inline_code;

    fn code(args: &[&str]) -> Option<String> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        inline_code(&args).map(str::to_owned)
    }

    #[test]
    fn code_is_the_first_operand_when_c_is_among_the_options() {
        for args in [
            &["-c", "x"][..],
            &["-ec", "x"],
            &["-c", "-e", "x", "arg0"],
            &["-e", "-u", "-x", "-c", "x"],
            &["-o", "pipefail", "-c", "x"],
            &["--norc", "-c", "--", "x"],
        ] {
            assert_eq!(code(args).as_deref(), Some("x"), "{args:?}");
        }
    }

    #[test]
    fn everything_else_has_no_readable_code() {
        for args in [
            &[][..],
            &["script.sh"],
            &["-s"],
            &["-i", "-c", "x"],
            &["-lc", "x"],
            &["--login", "-c", "x"],
            &["--rcfile", "f", "-c", "x"],
            &["-kc", "x"],
            &["-O", "extglob", "-c", "x"],
            &["+e", "-c", "x"],
            &["-", "-c", "x"],
            &["-e", "x", "-c", "y"],
            &["-c"],
            &["-o", "history", "-c", "x"],
        ] {
            assert_eq!(code(args), None, "{args:?}");
        }
    }
}
