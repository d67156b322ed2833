//! Keys, signatures, the trust bundle and everything an org signs: the rules of TRUST.md as code
