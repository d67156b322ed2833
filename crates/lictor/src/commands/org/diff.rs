//! A line diff, small and exact: the longest common subsequence of two texts.
//!
//! # Invariants
//! - Whoever applies it to the old text gets the new one: nothing is left out, since people sign by it.

/// Between the first and the last change, texts with more lines than this are shown whole: first the old, then the new.
const MAX_LINES: usize = 2000;

/// Lines of `old` and `new`, each with ` `, `-` or `+` before it; unchanged lines far from any change are left out.
pub(super) fn lines(old: &str, new: &str) -> Vec<String> {
    // Not `lines()`: a carriage return is a change as well.
    let (a, b): (Vec<&str>, Vec<&str>) = (
        old.split_terminator('\n').collect(),
        new.split_terminator('\n').collect(),
    );
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let rest = a[head..].iter().rev().zip(b[head..].iter().rev());
    let tail = rest.take_while(|(x, y)| x == y).count();
    let (from, to) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut all: Vec<(char, &str)> = a[..head].iter().map(|l| (' ', *l)).collect();
    if from.len() > MAX_LINES || to.len() > MAX_LINES {
        all.extend(from.iter().map(|l| ('-', *l)));
        all.extend(to.iter().map(|l| ('+', *l)));
    } else {
        all.extend(compare(from, to));
    }
    all.extend(a[a.len() - tail..].iter().map(|l| (' ', *l)));
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
        assert_eq!(lines("x\n", "x\r\n"), ["- x", "+ x\r"]);
    }

    #[test]
    fn of_long_texts_every_changed_line_is_shown() {
        let old: String = (0..5000).map(|i| format!("line {i}\n")).collect();
        let new = old.replace("line 2500\n", "line 2500\nadded\n");
        let added = [
            "  line 2499",
            "  line 2500",
            "+ added",
            "  line 2501",
            "  line 2502",
        ];
        assert_eq!(lines(&old, &new), added);
        let other: String = (0..5000).map(|i| format!("other {i}\n")).collect();
        let shown = lines(&old, &other);
        assert_eq!(shown.len(), 10_000);
        assert!(shown.contains(&"+ other 4999".to_owned()), "nothing is left out");
    }
}
