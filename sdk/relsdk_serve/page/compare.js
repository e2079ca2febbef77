// Two lists of hits beside each other: where each document moved, and lines between its two places.

import { h, svg, put } from "./dom.js";
import { fixed, t } from "./i18n.js";

/** Return for each hit of `mine` where the other list has it: {kind, short, label, twin}. */
export function moves(mine, theirs, other) {
  const places = new Map(theirs.map((hit, place) => [hit.id, place]));
  return mine.map((hit, place) => {
    const twin = places.get(hit.id);
    if (twin === undefined) {
      const label = t("move.only", { side: other });
      return {
        kind: "only",
        short: t("move.only.short", { side: other === "A" ? "B" : "A" }),
        label,
        twin: null,
      };
    }
    const by = Math.abs(twin - place);
    if (by === 0) return { kind: "same", short: "", label: t("move.same", { side: other }), twin };
    const kind = twin > place ? "up" : "down";
    return { kind, short: String(by), label: t(`move.${kind}`, { n: by, side: other }), twin };
  });
}

/** What differs, in one line. */
export function difference(a, b) {
  const found = moves(a, b, "B");
  const shared = found.filter((move) => move.twin !== null);
  const parts = [
    t("difference.shared", { n: shared.length }),
    t("difference.same", { n: shared.filter((move) => move.kind === "same").length }),
    t("difference.only", { n: a.length - shared.length, side: "A" }),
    t("difference.only", { n: b.length - shared.length, side: "B" }),
  ];
  if (shared.length) {
    const sum = found.reduce(
      (total, move, place) => total + (move.twin === null ? 0 : Math.abs(move.twin - place)),
      0,
    );
    parts.push(t("difference.mean", { n: sum / shared.length }));
  }
  const means = [a, b].map(meanLevel);
  if (means.every((mean) => mean !== null)) {
    parts.push(t("difference.levels", { a: fixed(means[0], 2), b: fixed(means[1], 2) }));
  }
  return [h("b", {}, t("difference")), parts.map((part) => h("span", {}, part))];
}

function meanLevel(hits) {
  if (!hits.length || hits.some((hit) => hit.expected_level === null)) return null;
  return hits.reduce((sum, hit) => sum + hit.expected_level, 0) / hits.length;
}

/** Draw a line from each hit of A to the same document in B. */
export function drawLines(picture, a, found) {
  const box = picture.getBoundingClientRect();
  if (!box.width || !box.height) return;
  picture.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
  const middle = (side, place) => {
    const rank = document.querySelector(`#hit-${side}-${place} .place`)?.getBoundingClientRect();
    return rank ? rank.top + rank.height / 2 - box.top : 0;
  };
  const paths = found.flatMap((move, place) => {
    if (move.twin === null) return [];
    const from = middle("A", place);
    const to = middle("B", move.twin);
    const bend = box.width / 2;
    const d = `M0 ${from}C${bend} ${from} ${bend} ${to} ${box.width} ${to}`;
    const kind = { up: "down", down: "up" }[move.kind] ?? move.kind; // as B sees it
    return [svg("path", { class: `line ${kind}`, d, "data-document": a[place].id })];
  });
  put(picture, paths);
}
