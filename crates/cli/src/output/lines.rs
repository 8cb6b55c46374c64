//! What changed between two texts, line by line, as `diff -u` shows it.

/// Lines shown around a change.
const CONTEXT: usize = 3;

/// One line of both texts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// The hunks that turn `old` into `new`; empty where nothing changed.
pub fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let lines = script(&old, &new);
    let changed: Vec<usize> = (0..lines.len()).filter(|i| !matches!(lines[*i], Line::Same(_))).collect();
    let mut out = String::new();
    for hunk in changed.chunk_by(|a, b| b - a <= 2 * CONTEXT + 1) {
        let from = hunk[0].saturating_sub(CONTEXT);
        let to = (hunk[hunk.len() - 1] + CONTEXT + 1).min(lines.len());
        let count = |part: &[Line<'_>], old: bool| {
            part.iter().filter(|line| !matches!((line, old), (Line::New(_), true) | (Line::Gone(_), false))).count()
        };
        let place = |old: bool| {
            let (before, length) = (count(&lines[..from], old), count(&lines[from..to], old));
            format!("{},{length}", if length == 0 { before } else { before + 1 })
        };
        out.push_str(&format!("@@ -{} +{} @@\n", place(true), place(false)));
        for line in &lines[from..to] {
            let (mark, text) = match line {
                Line::Same(text) => (' ', text),
                Line::Gone(text) => ('-', text),
                Line::New(text) => ('+', text),
            };
            out.push(mark);
            out.push_str(text);
            out.push('\n');
        }
    }
    out
}

/// The shortest way from one text to the other (Myers): `ends[d]` are the furthest points reached with `d` changes.
fn script<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let (n, m) = (old.len() as isize, new.len() as isize);
    let line = |texts: &[&'a str], at: isize| texts[at as usize];
    let mut ends: Vec<Vec<isize>> = Vec::new();
    // The point on diagonal `k` after `d` changes, from the row of `d - 1`.
    let step = |row: Option<&Vec<isize>>, d: isize, k: isize| -> (isize, bool) {
        let Some(row) = row else { return (0, true) };
        let at = |k: isize| if k.abs() < d { row[((k + d - 1) / 2) as usize] } else { -1 };
        let (down, right) = (at(k + 1), at(k - 1));
        if k == -d || k != d && right < down { (down, true) } else { (right + 1, false) }
    };
    'search: for d in 0..=n + m {
        let mut row = Vec::new();
        for k in (-d..=d).step_by(2) {
            let (mut x, _) = step(ends.last(), d, k);
            while x < n && x - k < m && x - k >= 0 && line(old, x) == line(new, x - k) {
                x += 1;
            }
            row.push(x);
            if x >= n && x - k >= m {
                ends.push(row);
                break 'search;
            }
        }
        ends.push(row);
    }
    let (mut x, mut y) = (n, m);
    let mut lines = Vec::new();
    for d in (0..ends.len() as isize).rev() {
        let before = if d == 0 { None } else { ends.get(d as usize - 1) };
        let (from, down) = step(before, d, x - y);
        let start = if d == 0 { 0 } else { from };
        while x > start && y > start - (x - y) {
            (x, y) = (x - 1, y - 1);
            lines.push(Line::Same(line(old, x)));
        }
        if d > 0 && down {
            y -= 1;
            lines.push(Line::New(line(new, y)));
        } else if d > 0 {
            x -= 1;
            lines.push(Line::Gone(line(old, x)));
        }
    }
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(old: &str, new: &str) -> usize {
        let (a, b): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
        let lines = script(&a, &b);
        let olds: Vec<_> =
            lines.iter().filter_map(|l| if let Line::Same(t) | Line::Gone(t) = l { Some(*t) } else { None }).collect();
        let news: Vec<_> =
            lines.iter().filter_map(|l| if let Line::Same(t) | Line::New(t) = l { Some(*t) } else { None }).collect();
        assert_eq!((olds, news), (a, b));
        lines.iter().filter(|l| !matches!(l, Line::Same(_))).count()
    }

    #[test]
    fn both_texts_are_in_the_script_and_it_is_short() {
        let words = |text: &str| text.replace(' ', "\n");
        for (old, new, changes) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "a b", 2),
            ("a b c", "a b c", 0),
            ("a b c", "a x c", 2),
            ("a b c a b b a", "c b a b a c", 5),
            ("a b c d e f", "b c d e f g", 2),
            ("x a x b x", "a b", 3),
        ] {
            assert_eq!(replay(&words(old), &words(new)), changes, "{old} -> {new}");
        }
    }

    #[test]
    fn hunks() {
        let old: String = (1..=20).map(|i| format!("{i}\n")).collect();
        let new = old.replace("\n5\n", "\nfive\n").replace("20\n", "");
        assert_eq!(
            unified(&old, &new),
            "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n@@ -17,4 +17,3 @@\n 17\n 18\n 19\n-20\n"
        );
        assert_eq!(unified(&old, &old), "");
        assert_eq!(unified("", "a\n"), "@@ -0,0 +1,1 @@\n+a\n");
    }
}
