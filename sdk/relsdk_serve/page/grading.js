// Grades by hand: kept for the tab, agreeing with the models' levels or not, and downloaded as pairs.

import { tab } from "./store.js";

const NAME = "relsdk.grades";

/** A grade belongs to a query and a document, whichever configuration found it. */
export const keyOf = (query, hit) => JSON.stringify([query, hit.id, hit.title]);

/** What a configuration says of a hit, as it is kept with the grade; null where it has no levels. */
export const saidOf = ({ level, probabilities }) => (level === null ? null : { level, probabilities });

export class Grades {
  constructor() {
    this.entries = new Map();
    this.undone = []; // what there was before each change: [key, entry or undefined]
    this.listeners = [];
    for (const [key, entry] of kept()) this.entries.set(key, entry);
  }

  get size() {
    return this.entries.size;
  }

  of(query, hit) {
    return this.entries.get(keyOf(query, hit))?.label ?? null;
  }

  /** Grade a hit; the same grade again removes it. Return the grade there is now, or null. */
  give(query, hit, label, models = {}) {
    const key = keyOf(query, hit);
    const before = this.entries.get(key);
    this.undone.push([key, before]);
    if (before?.label === label) {
      this.entries.delete(key);
    } else {
      const text = hit.passage ? hit.passage.text : hit.text;
      const id = hit.passage ? null : hit.id; // a passage is not the document of that id
      this.entries.set(key, {
        query,
        id,
        title: hit.title,
        text,
        label,
        models: { ...before?.models, ...models },
      });
    }
    this.changed();
    return this.entries.get(key)?.label ?? null;
  }

  /** Note what a configuration says of a pair that is graded. */
  note(query, hit, configuration) {
    const entry = this.entries.get(keyOf(query, hit));
    const said = saidOf(hit);
    if (!entry || !said || JSON.stringify(entry.models[configuration]) === JSON.stringify(said)) return;
    entry.models[configuration] = said;
    this.keep();
  }

  /** Undo the last change; return whether there was one. */
  undo() {
    if (!this.undone.length) return false;
    const [key, entry] = this.undone.pop();
    if (entry) this.entries.set(key, entry);
    else this.entries.delete(key);
    this.changed();
    return true;
  }

  remove(key) {
    this.undone.push([key, this.entries.get(key)]);
    this.entries.delete(key);
    this.changed();
  }

  clear() {
    this.entries.clear();
    this.undone = [];
    this.changed();
  }

  /** JSON lines as `relsdk calibrate BUNDLE PAIRS` reads them. */
  lines() {
    const rows = [...this.entries.values()].map(({ query, id, title, text, label }) =>
      JSON.stringify({ query, ...(id === null ? {} : { doc_id: id }), title, text, label }),
    );
    return rows.map((row) => `${row}\n`).join("");
  }

  changed() {
    this.keep();
    this.listeners.forEach((listener) => listener());
  }

  keep() {
    tab.set(NAME, JSON.stringify([...this.entries]));
  }
}

function kept() {
  try {
    return JSON.parse(tab.get(NAME) ?? "[]");
  } catch {
    return []; // not ours
  }
}

/** For each configuration: pairs, the same level, at most one off, the mean difference, and the 4 x 4 counts. */
export function agreement(entries) {
  const rows = new Map();
  for (const { label, models } of entries) {
    for (const [configuration, { level }] of Object.entries(models)) {
      if (!rows.has(configuration)) rows.set(configuration, emptyRow(configuration));
      const row = rows.get(configuration);
      row.pairs += 1;
      row.exact += level === label;
      row.near += Math.abs(level - label) <= 1;
      row.bias += level - label;
      row.counts[label][level] += 1;
    }
  }
  return [...rows.values()].sort((one, other) => other.pairs - one.pairs);
}

const emptyRow = (configuration) => ({
  configuration,
  pairs: 0,
  exact: 0,
  near: 0,
  bias: 0,
  counts: [0, 1, 2, 3].map(() => [0, 0, 0, 0]),
});
