// The filters beside the hits: their fields follow the state, and changes of theirs go into it.

import { byId, h, put, radios, say } from "./dom.js";
import { numeral, t } from "./i18n.js";
import { levelWord } from "./level.js";
import { PAGE_SIZES } from "./state.js";

/** Connect the form; `change` takes what changed. */
export function startFilters(change) {
  byId("filter-form").addEventListener("submit", (event) => event.preventDefault());
  const where = byId("where");
  where.addEventListener("change", () => change({ where: where.value.trim() }));
  where.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    change({ where: where.value.trim() });
  });
  for (const name of ["sort", "group"]) {
    byId(name).addEventListener("change", (event) => change({ [name]: event.target.value }));
  }
  byId("k").addEventListener("change", (event) => change({ k: Number(event.target.value) }));
  byId("min-level").addEventListener("change", (event) => change({ minLevel: Number(event.target.value) }));
  byId("facet-fields").addEventListener("change", () => {
    const boxes = [...byId("facet-fields").querySelectorAll("input:checked")];
    change({ facets: boxes.map((box) => box.value) });
  });
  const wide = matchMedia("(min-width: 60rem)");
  const fit = () => (byId("filters").open = wide.matches);
  wide.addEventListener("change", fit);
  fit();
}

/** Show the filters of a state; `fields` are those of the indexes, {name, kinds}. */
export function showFilters(state, fields) {
  const where = byId("where");
  if (document.activeElement !== where || where.value.trim() !== state.where) where.value = state.where;
  where.placeholder = example(fields);
  byId("where-help").textContent = fields.length
    ? t("where.fields", { fields: fields.map((field) => field.name).join(", ") })
    : t("where.none");
  options(
    byId("sort"),
    [
      ["", t("sort.score")],
      ...fields.flatMap(({ name }) => [
        [`-${name}`, t("sort.falling", { field: name })],
        [name, t("sort.rising", { field: name })],
      ]),
    ],
    state.sort,
  );
  options(byId("group"), [["", t("group.none")], ...fields.map(({ name }) => [name, name])], state.group);
  const sizes = [...new Set([...PAGE_SIZES, state.k])].sort((one, other) => one - other);
  options(
    byId("k"),
    sizes.map((size) => [String(size), numeral(size, 0)]),
    String(state.k),
  );
  showLevels(state.minLevel);
  showFacetFields(fields, state.facets);
  const chosen = [state.sort, state.group, ...state.facets].filter(Boolean).length;
  say(byId("more-count"), chosen ? numeral(chosen, 0) : "");
}

/** Whether an error is about the filter. */
export const isAboutWhere = (error) => error?.param === "where";

/** Say what the server refused, beside the filter if it is about it. */
export function showFilterError(error) {
  const about = isAboutWhere(error);
  say(byId("where-error"), about ? error.message : "");
  byId("where").setAttribute("aria-invalid", String(about));
  if (about) byId("filters").open = true;
}

/** An example of a filter, of this index's own fields. */
function example(fields) {
  const number = fields.find(({ kinds }) => kinds.includes("number"));
  const text = fields.find(({ kinds }) => kinds.includes("text"));
  return [number && `${number.name} < 60`, text && `${text.name} = "…"`].filter(Boolean).join(" and ");
}

/** A name that the index does not have is shown all the same: the server says what is wrong with it. */
function options(select, choices, chosen) {
  const known = choices.some(([value]) => value === chosen) ? choices : [...choices, [chosen, chosen]];
  put(
    select,
    known.map(([value, label]) => h("option", { value }, label)),
  );
  select.value = chosen;
}

function showLevels(chosen) {
  const focused = document.activeElement?.name === "min-level";
  put(
    byId("min-level"),
    radios(
      "min-level",
      [0, 1, 2, 3].map((level) => [String(level), level ? levelWord(level) : t("minlevel.any")]),
      String(chosen),
    ),
  );
  if (focused) byId("min-level").querySelector("input:checked").focus();
}

function showFacetFields(fields, chosen) {
  const focused = document.activeElement?.closest("#facet-fields") ? document.activeElement.value : null;
  put(
    byId("facet-fields"),
    fields.map(({ name }) =>
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", value: name, ...(chosen.includes(name) ? { checked: true } : {}) }),
        h("span", {}, name),
      ),
    ),
  );
  if (focused !== null)
    byId("facet-fields")
      .querySelector(`input[value="${CSS.escape(focused)}"]`)
      ?.focus();
}
