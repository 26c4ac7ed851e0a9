//! The order of rows in queries and keys. llama.cpp rotates LLaDA's neighbouring components (2i, 2i + 1), so its converter
//! interleaves the halves of each head; this network rotates (i, i + h/2), as the checkpoints do. Dream's it rotates by
//! halves, so they are as they were.

use super::super::stored::{Bytes, Stored};

/// A matrix of so many heads with the rows of a checkpoint: the even ones of each head, then the odd ones. Whole rows move,
/// in any format.
///
/// # Errors
/// Its rows are no whole heads of an even width.
pub(in super::super) fn undo(stored: &Stored, heads: usize) -> Result<Stored, String> {
    let rows = stored.rows();
    if stored.shape().len() != 2 || rows == 0 || !rows.is_multiple_of(2 * heads) {
        return Err(format!("a shape of {:?} is no {heads} heads of an even width", stored.shape()));
    }
    let head = rows / heads;
    let mut ordered = Vec::with_capacity(stored.bytes().len());
    for first in (0..rows).step_by(head) {
        for half in 0..2 {
            for i in 0..head / 2 {
                ordered.extend_from_slice(stored.row(first + 2 * i + half));
            }
        }
    }
    stored.bytes().release();
    Stored::new(stored.format(), stored.shape().to_vec(), Bytes::from(ordered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stored::Format;

    #[test]
    fn interleaved_rows_return_to_halves() {
        // Two heads of four rows, two bytes each; the file has 0, 2, 1, 3 of each head.
        let file = vec![0, 0, 2, 2, 1, 1, 3, 3, 4, 4, 6, 6, 5, 5, 7, 7];
        let stored = Stored::new(Format::F16, vec![8, 1], Bytes::from(file)).unwrap();
        let ordered = undo(&stored, 2).unwrap();
        assert_eq!(&**ordered.bytes(), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
        assert!(undo(&stored, 3).is_err());
    }
}
