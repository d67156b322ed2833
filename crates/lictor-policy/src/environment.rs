//! Variables that decide what code is loaded or what commands mean.
//!
//! Outside a namespaced profile a job may not set them at all (`variable_refused`): with one of these, a permitted
//! program runs anything. Inside a namespaced profile they do no more than the job could do there anyway. The
//! profile's own `env` is law and may set what it likes.

use std::collections::BTreeMap;

use lictor_proto::Code;
use lictor_proto::code::Refusal;

/// Names that start so.
const PREFIXES: &[&str] = &[
    "ANSIBLE_",
    "BASH_",
    "BUNDLE_",
    "CARGO_",
    "COMPLUS_",
    "CORECLR_",
    "DOTNET_",
    "DYLD_",
    "GEM_",
    "GIT_",
    "GUILE_",
    "JAVA_",
    "JDK_",
    "LD_",
    "LUA_",
    "NODE_",
    "NPM_CONFIG_",
    "PERL",
    "PYTHON",
    "RUBY",
    "SUDO_",
    "_JAVA_",
    "npm_config_",
];

/// Names.
const NAMES: &[&str] = &[
    "AWKLIBPATH",
    "AWKPATH",
    "BASHOPTS",
    "BROWSER",
    "CDPATH",
    "CLASSPATH",
    "CVS_RSH",
    "EDITOR",
    "EXECIGNORE",
    "ENV",
    "FCEDIT",
    "FPATH",
    "GCONV_PATH",
    "GETCONF_DIR",
    "GLIBC_TUNABLES",
    "GLOBIGNORE",
    "GTK_MODULES",
    "GTK_PATH",
    "HOSTALIASES",
    "IFS",
    "INPUTRC",
    "LESSCLOSE",
    "LESSOPEN",
    "LIBPATH",
    "LOCALDOMAIN",
    "LOCPATH",
    "MAKEFILES",
    "MAKEFLAGS",
    "MALLOC_TRACE",
    "MANPAGER",
    "NIS_PATH",
    "NLSPATH",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "PAGER",
    "PATH",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS0",
    "PS1",
    "PS2",
    "PS3",
    "PS4",
    "QT_PLUGIN_PATH",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "RSYNC_RSH",
    "RUSTC_WRAPPER",
    "SHELL",
    "SHELLOPTS",
    "SHLIB_PATH",
    "SSH_ASKPASS",
    "SYSTEMD_EDITOR",
    "SYSTEMD_PAGER",
    "TAR_OPTIONS",
    "TCLLIBPATH",
    "TERMCAP",
    "TERMINFO",
    "TERMINFO_DIRS",
    "VISUAL",
    "XDG_CONFIG_DIRS",
    "XDG_DATA_DIRS",
    "ZDOTDIR",
    "LESS",
    "RIPGREP_CONFIG_PATH",
    "CURL_HOME",
    "WGETRC",
    "OPENSSL_CONF_INCLUDE",
];

/// Whether a variable of this name decides what code is loaded or what commands mean.
#[must_use]
pub fn changes_code(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Refuses such variables in a job's own environment.
///
/// # Errors
/// [`Code::VariableRefused`] with the first name.
pub fn check(env: &BTreeMap<String, String>, namespaced: bool) -> Result<(), Refusal> {
    match env.keys().find(|name| changes_code(name)) {
        Some(name) if !namespaced => Err(Refusal::new(
            Code::VariableRefused,
            format!(
                "{} decides what code runs; set it in the profile, or use a sandbox profile",
                name.escape_debug()
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_loader_variables_only_outside_namespaces() {
        for name in [
            "LD_PRELOAD",
            "BASH_ENV",
            "BASH_FUNC_ls%%",
            "ENV",
            "PYTHONPATH",
            "PERL5OPT",
            "RUBYOPT",
            "NODE_OPTIONS",
            "GIT_SSH_COMMAND",
            "IFS",
            "PATH",
            "GLIBC_TUNABLES",
        ] {
            let env = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
            assert_eq!(
                check(&env, false).map_err(|r| r.code),
                Err(Code::VariableRefused),
                "{name}"
            );
            assert_eq!(check(&env, true), Ok(()), "{name}");
        }
    }

    #[test]
    fn leaves_ordinary_variables_alone() {
        let mut env = BTreeMap::new();
        for name in ["FOO", "LANG", "TZ", "HTTP_PROXY", "HOME", "LC_ALL", "A"] {
            env.insert(name.to_owned(), "x".to_owned());
        }
        assert_eq!(check(&env, false), Ok(()));
    }
}
