//! A line diff, small and exact: the longest common subsequence of two texts.

/// Texts with more lines than this are shown as changed, without their lines.
const MAX_LINES: usize = 2000;

/// Lines of `old` and `new`, each with ` `, `-` or `+` before it; unchanged lines far from any change are left out.
pub(super) fn lines(old: &str, new: &str) -> Vec<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    if a.len() > MAX_LINES || b.len() > MAX_LINES {
        return vec!["(too long to show line by line)".to_owned()];
    }
    let all = compare(&a, &b);
    let near = |i: usize| {
        let from = i.saturating_sub(2);
        all[from..all.len().min(i + 3)]
            .iter()
            .any(|(mark, _)| *mark != ' ')
    };
    let shown = all.iter().enumerate().filter(|(i, _)| near(*i));
    shown.map(|(_, (mark, line))| format!("{mark} {line}")).collect()
}

fn compare<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<(char, &'a str)> {
    // common[i][j]: length of the longest common subsequence of a[i..] and b[j..]
    let mut common = vec![vec![0_u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || common[i + 1][j] >= common[i][j + 1]) {
            out.push(('-', a[i]));
            i += 1;
        } else {
            out.push(('+', b[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn shows_what_went_and_what_came() {
        let old = "a\nb\nc\nd\ne\nf\ng\n";
        let new = "a\nb\nc\nd\ne\nF\ng\n";
        assert_eq!(lines(old, new), ["  d", "  e", "- f", "+ F", "  g"]);
        assert!(lines(old, old).is_empty());
        assert_eq!(lines("", "x\n"), ["+ x"]);
    }
}
