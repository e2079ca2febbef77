// Tables of figures.

import { h } from "./dom.js";

/** The heads of the columns. */
export const heads = (...names) =>
  h(
    "thead",
    {},
    h(
      "tr",
      {},
      names.map((name) => h("th", { scope: "col" }, name)),
    ),
  );

/** A table that is wider than a phone scrolls on its own, also by keys. */
export const scroller = (label, table) =>
  h("div", { class: "scroller", role: "region", tabindex: 0, "aria-label": label }, table);
