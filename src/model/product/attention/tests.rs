use super::*;
use crate::rng;

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let key = rng::key(&[seed]);
    (0..count as u64).map(|i| 4.0 * (rng::uniform(key, i) as f32 - 0.5)).collect()
}

struct Shape {
    query_heads: usize,
    heads: usize,
    width: usize,
    canvas: usize,
}

const SHAPES: [Shape; 4] = [
    Shape { query_heads: 4, heads: 4, width: 16, canvas: 21 },
    Shape { query_heads: 6, heads: 2, width: 10, canvas: 40 },
    Shape { query_heads: 7, heads: 1, width: 64, canvas: 300 },
    Shape { query_heads: 2, heads: 2, width: 128, canvas: 33 },
];

impl Shape {
    fn memory(&self, seed: u64) -> (KeyValues, Vec<f32>, Vec<f32>) {
        let mut memory = KeyValues::reserve(self.heads, self.width, self.canvas).unwrap();
        let count = self.canvas * self.heads * self.width;
        let (keys, values) = (noise(seed, count), noise(seed + 1, count));
        memory.write(0, &keys, &values).unwrap();
        (memory, keys, values)
    }

    /// By the definition, in f64.
    fn exact(&self, q: &[f32], keys: &[f32], values: &[f32], visible: usize) -> Vec<f64> {
        let (width, share) = (self.width, self.query_heads / self.heads);
        let mut all = Vec::new();
        for (at, q) in q.chunks_exact(width).enumerate() {
            let head = at % self.query_heads / share;
            let of = |x: &[f32], position: usize, component: usize| {
                f64::from(x[(position * self.heads + head) * width + component])
            };
            let score = |p: usize| (0..width).map(|c| f64::from(q[c]) * of(keys, p, c)).sum::<f64>();
            let weight = |p: usize| (score(p) / (width as f64).sqrt()).exp();
            let total: f64 = (0..visible).map(weight).sum();
            all.extend(
                (0..width).map(|c| (0..visible).map(|p| weight(p) * of(values, p, c)).sum::<f64>() / total),
            );
        }
        all
    }
}

#[test]
fn attention_is_the_mean_of_the_visible_values_by_their_scores() {
    for shape in SHAPES {
        let (memory, keys, values) = shape.memory(1);
        for (rows, visible) in [(1, 1), (5, shape.canvas), (33, shape.canvas - 3), (40, 16)] {
            let q = noise(3, rows * shape.query_heads * shape.width);
            let seen = Seen { memory: &memory, rows, visible };
            let found = attend(&q, shape.query_heads, &[seen]).unwrap();
            let exact = shape.exact(&q, &keys, &values, visible);
            for (found, exact) in found.iter().zip(exact) {
                assert!((f64::from(*found) - exact).abs() < 1e-5, "{rows} rows, {visible}: {found} {exact}");
            }
        }
    }
}

#[test]
fn a_row_is_the_same_to_the_bit_with_other_rows_and_other_sequences() {
    for shape in SHAPES {
        let ((one, ..), (other, ..)) = (shape.memory(1), shape.memory(5));
        let row = shape.query_heads * shape.width;
        let q = noise(3, 70 * row);
        let visible = shape.canvas - 1;
        let alone = |rows: usize| {
            attend(&q[..rows * row], shape.query_heads, &[Seen { memory: &one, rows, visible }]).unwrap()
        };
        let all = alone(70);
        for rows in 1..70 {
            assert!(alone(rows) == all[..rows * row], "{rows} rows");
            let sequences =
                [Seen { memory: &one, rows, visible }, Seen { memory: &other, rows: 70 - rows, visible: 2 }];
            assert!(attend(&q, shape.query_heads, &sequences).unwrap()[..rows * row] == all[..rows * row]);
        }
    }
}

#[test]
fn what_was_written_is_read() {
    for shape in SHAPES {
        let (mut memory, keys, values) = shape.memory(1);
        let row = shape.heads * shape.width;
        let (new_keys, new_values) = (noise(7, 3 * row), noise(8, 3 * row));
        memory.write(5, &new_keys, &new_values).unwrap();
        assert_eq!(memory.read(5, 3).unwrap(), (new_keys, new_values));
        assert_eq!(
            memory.read(8, 4).unwrap(),
            (keys[8 * row..12 * row].into(), values[8 * row..12 * row].into())
        );
        assert!(memory.write(shape.canvas, &keys[..row], &values[..row]).is_err());
        assert!(memory.read(shape.canvas, 1).is_err());
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let (memory, ..) = SHAPES[0].memory(1);
    for (rows, visible, heads) in [(1, 22, 4), (1, 0, 4), (2, 5, 4), (1, 5, 3)] {
        assert!(attend(&[0.0; 64], heads, &[Seen { memory: &memory, rows, visible }]).is_err());
    }
    assert!(KeyValues::reserve(1, 1 << 20, usize::MAX >> 20).is_err());
}
