// Values of fields with their counts, each a filter; and the filters that were chosen.

import { h, put, say } from "./dom.js";
import { numeral, t } from "./i18n.js";
import { meter } from "./level.js";
import { conditionOf } from "./state.js";

// A field may have a value of its own in each document.
const AT_FIRST = 8;
const AT_MOST = 200;

/** Show the facets of what the sides found: the counts of A, and those of B where it has another index. */
export function showFacets(element, fields, answers, picked, onPick) {
  const found = answers.filter((answer) => answer?.facets);
  if (!found.length) return put(element);
  return put(
    element,
    fields.map((field) => facet(field, found, picked, onPick)),
  );
}

function facet(field, found, picked, onPick) {
  const counts = new Map();
  found.forEach(({ facets }, side) => {
    for (const { value, count } of facets[field] ?? []) {
      const name = JSON.stringify(value);
      if (!counts.has(name)) counts.set(name, { value, counts: found.map(() => 0) });
      counts.get(name).counts[side] = count;
    }
  });
  const rows = [...counts.values()];
  const list = (some) =>
    h(
      "ul",
      {},
      some.map((row) => value(field, row, most, picked, onPick)),
    );
  const most = Math.max(1, ...rows.flatMap((row) => row.counts));
  return h(
    "section",
    { class: "facet" },
    h("h3", {}, field),
    rows.length ? null : h("p", { class: "help" }, t("facets.none")),
    list(rows.slice(0, AT_FIRST)),
    rows.length > AT_FIRST
      ? h(
          "details",
          {},
          h("summary", {}, t("facets.more", { n: rows.length - AT_FIRST })),
          list(rows.slice(AT_FIRST, AT_MOST)),
        )
      : null,
  );
}

function value(field, row, most, picked, onPick) {
  const condition = conditionOf(field, row.value);
  const chosen = picked.includes(condition);
  const count = row.counts.map((one) => numeral(one, 0)).join(" · ");
  const words = { field, value: String(row.value), count };
  return h(
    "li",
    {},
    h(
      "button",
      {
        type: "button",
        class: "count-of",
        dataset: { condition },
        "aria-pressed": String(chosen),
        "aria-label": t(chosen ? "facets.remove" : "facets.add", words),
        onclick: () => onPick(condition),
      },
      h("span", { class: "name" }, String(row.value)),
      h("span", { class: "number" }, count),
      meter(Math.max(...row.counts) / most),
    ),
  );
}

export function showChips(element, picked, onPick, onClear) {
  element.hidden = !picked.length;
  if (element.hidden) return put(element);
  const chips = picked.map((condition) =>
    h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: "picked",
          "aria-label": t("picked.remove", { condition }),
          onclick: () => onPick(condition),
        },
        h("span", { class: "mono" }, condition),
        h("span", { class: "cross", "aria-hidden": "true" }, "×"),
      ),
    ),
  );
  const clear =
    picked.length > 1
      ? h("button", { type: "button", class: "link", onclick: onClear }, t("picked.clear"))
      : null;
  return put(element, h("ul", { "aria-label": t("picked") }, chips), clear);
}

export function showCount(element, state) {
  const count = state.picked.length + (state.where.trim() ? 1 : 0) + (state.minLevel ? 1 : 0);
  say(element, count ? numeral(count, 0) : "");
}
