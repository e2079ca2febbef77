// Elements made of data: text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: h("p", {class: "x", onclick: f, hidden: true}, "text", child). */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Make an SVG element. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(
    ...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Replace what an element holds. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return element;
}

/** A list to choose from: [[value, text], ...]. */
export function choice(id, label, choices, chosen, onchange) {
  const select = h(
    "select",
    { id, "aria-label": label, title: label, onchange: (event) => onchange(event.target.value) },
    choices.map(([value, text]) => h("option", { value }, text)),
  );
  select.value = chosen;
  return select;
}

/** Buttons of which one holds: [[value, text, whether it is disabled], ...]. */
export const radios = (name, choices, chosen) =>
  choices.map(([value, text, disabled = false]) =>
    h(
      "label",
      {},
      h("input", { type: "radio", name, value, checked: value === chosen, disabled }),
      h("span", {}, text),
    ),
  );

/** Show an element with this text, or hide it where there is none. */
export function say(element, text) {
  element.textContent = text || "";
  element.hidden = !text;
}

/** The language of a text of the index, for its glyphs and for a screen reader: Han without kana is Chinese. */
export function languageOf(text) {
  if (/[\u3040-\u30ff]/.test(text)) return "ja";
  if (/[\uac00-\ud7ff]/.test(text)) return "ko";
  return /[\u3400-\u9fff]/.test(text) ? "zh-CN" : null;
}
