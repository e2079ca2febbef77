// How often what had a probability was so: relsdk.metrics.reliability_curve, of the pairs that a person graded.

const BINS = 15;
const Z = 1.959964; // 97.5 % quantile of the standard normal distribution

/** The most probable level, and level 1, 2 or 3 at least: what a probability may be of. */
export const OUTCOMES = ["top", "1", "2", "3"];

/** The graded pairs to which a configuration gave probabilities: [{query, probability, happened}]. */
export function pairsOf(entries, configuration, outcome) {
  return entries
    .filter(({ models }) => models[configuration])
    .map(({ query, label, models }) => {
      const { level, probabilities } = models[configuration];
      if (outcome === "top")
        return { query, probability: Math.max(...probabilities), happened: level === label };
      const least = Number(outcome);
      const probability = sum(probabilities.slice(least), (one) => one);
      return { query, probability: Math.min(probability, 1), happened: label >= least }; // rounded, it may be above
    });
}

/** The bins that hold pairs, by rising probability: [{place, pairs, probability, share, low, high}]. */
export function reliabilityCurve(pairs) {
  const bins = Array.from({ length: BINS }, () => []);
  for (const pair of pairs) bins[Math.max(Math.ceil(pair.probability * BINS) - 1, 0)].push(pair);
  return bins.flatMap((inside, place) =>
    inside.length ? [{ place: (place + 0.5) / BINS, ...measure(inside) }] : [],
  );
}

function measure(pairs) {
  const count = pairs.length;
  const probability = sum(pairs, (pair) => pair.probability) / count;
  const share = sum(pairs, (pair) => Number(pair.happened)) / count;
  const alone = sum(pairs, (pair) => pair.probability * (1 - pair.probability));
  const variance = Math.max(alone, betweenQueries(pairs, share - probability));
  const worth = variance ? (count * alone) / variance : count; // in pairs that do not go together
  return { pairs: count, probability, share, ...wilson(share, worth) };
}

/** The variance of the sum of what is missed; pairs of one query are missed together. */
function betweenQueries(pairs, gap) {
  const missed = new Map();
  for (const { query, probability, happened } of pairs)
    missed.set(query, (missed.get(query) ?? 0) + Number(happened) - probability - gap);
  const queries = missed.size;
  return queries > 1 ? (sum([...missed.values()], (one) => one ** 2) * queries) / (queries - 1) : 0;
}

/** The 95 % score interval of a share of so many pairs. */
function wilson(share, pairs) {
  const count = Math.max(pairs, 1);
  const wide = Z ** 2 / count;
  const centre = (share + wide / 2) / (1 + wide);
  const half = (Z * Math.sqrt((share * (1 - share)) / count + (wide / (2 * Z)) ** 2)) / (1 + wide);
  return { low: Math.max(centre - half, 0), high: Math.min(centre + half, 1) };
}

const sum = (values, of) => values.reduce((total, value) => total + of(value), 0);
