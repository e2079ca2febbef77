// What is looked at: one record, which the address holds behind its "#", so that a link restores it.
// Behind the "#", no server and no proxy sees a query.

export const PAGE_SIZES = [5, 10, 20, 50, 100];

export const EMPTY = {
  query: "",
  where: "",
  picked: [], // conditions that were clicked: "author=\"老王\""
  minLevel: 0,
  sort: "",
  group: "",
  k: 10,
  offset: 0,
  facets: [],
  sides: [{ index: "", mode: "", scorer: "" }],
};

const NAMES = ["a", "b"];
const number = (text, low, high, fallback) => {
  const value = Number(text);
  return Number.isInteger(value) && value >= low && value <= high ? value : fallback;
};

/** Read what an address holds; what it does not hold, or holds wrongly, is as in EMPTY. */
export function readState(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const side = (name) => ({
    index: given.get(`${name}.index`) ?? "",
    mode: given.get(`${name}.mode`) ?? "",
    scorer: given.get(`${name}.scorer`) ?? "",
  });
  return {
    query: (given.get("q") ?? "").slice(0, 2000),
    where: given.get("where") ?? "",
    picked: given.getAll("is"),
    minLevel: number(given.get("level"), 0, 3, 0),
    sort: given.get("sort") ?? "",
    group: given.get("group") ?? "",
    k: number(given.get("k"), 1, 1000, EMPTY.k),
    offset: number(given.get("from"), 0, 1e6, 0),
    facets: given.getAll("count"),
    sides: NAMES.filter((name) => name === "a" || given.has(`${name}.index`)).map(side),
  };
}

/** Write a state as what stands behind the "#"; what is as in EMPTY is left out. */
export function writeState(state) {
  const out = new URLSearchParams();
  const add = (name, value) => value && out.append(name, value);
  add("q", state.query);
  add("where", state.where);
  state.picked.forEach((condition) => out.append("is", condition));
  add("level", state.minLevel);
  add("sort", state.sort);
  add("group", state.group);
  if (state.k !== EMPTY.k) out.append("k", state.k);
  add("from", state.offset);
  state.facets.forEach((field) => out.append("count", field));
  state.sides.forEach((side, place) => {
    out.append(`${NAMES[place]}.index`, side.index);
    add(`${NAMES[place]}.mode`, side.mode);
    add(`${NAMES[place]}.scorer`, side.scorer);
  });
  return `#${out}`;
}

/** Return the filter of a state as the server reads it: what was typed and what was clicked must both hold. */
export function whereOf(state) {
  const typed = state.where.trim();
  if (!state.picked.length) return typed;
  return [...(typed ? [`(${typed})`] : []), ...state.picked].join(" and ");
}

/** Return the condition that a field has a value, quoted as `where` wants it. */
export function conditionOf(field, value) {
  const plain = /^[\p{L}_][\p{L}\p{N}_.]*$/u.test(field) && !/^(and|or|not|in|exists)$/i.test(field);
  return `${plain ? field : JSON.stringify(field)}=${JSON.stringify(value)}`;
}

/** Return the body of /v1/search for one side. */
export function searchBody(state, side) {
  const body = { index: side.index, query: state.query, k: state.k, offset: state.offset };
  const where = whereOf(state);
  if (where) body.where = where;
  if (state.sort) body.sort = state.sort;
  if (state.group) body.group_by = state.group;
  if (state.facets.length) body.facets = state.facets;
  if (state.minLevel) body.min_level = state.minLevel;
  if (side.mode) body.mode = side.mode;
  body.scorer = side.scorer || false;
  return body;
}

/** Return sides that the server has, each made whole; names that it does not have go into `unknown`. */
export function settle(sides, indexes, unknown) {
  return sides.map((side) => {
    const index = indexes.find((one) => one.name === side.index);
    if (side.index && !index) unknown.push(side.index);
    const chosen = index ?? indexes[0];
    const fresh = !index; // nothing was chosen for this index: as the server would do it
    const mode = chosen.modes.includes(side.mode) ? side.mode : defaultMode(chosen);
    if (side.scorer && !chosen.scorers.includes(side.scorer)) unknown.push(side.scorer);
    const scorer = chosen.scorers.includes(side.scorer) ? side.scorer : fresh ? (chosen.scorer ?? "") : "";
    return { index: chosen.name, mode, scorer };
  });
}

const defaultMode = (index) => (index.modes.includes("hybrid") ? "hybrid" : index.modes[0]);
