// What the page says beside the hits: a notice to read, a status to hear, and that something is under way.

import { byId, h, put, say } from "./dom.js";
import { numeral, t } from "./i18n.js";

/** Show a notice, with a button that tries again where there is something to try; none without a text. */
export function notice(text, again = null) {
  say(byId("notice"), text);
  if (again)
    byId("notice").append(
      " ",
      h("button", { type: "button", class: "plain", onclick: again }, t("error.again")),
    );
}

/** Say something to a screen reader. */
export const tell = (text) => put(byId("status"), text);

export const busy = (yes) => byId("progress").classList.toggle("on", yes);

/** What an error of `ask` means. */
export function messageOf(error) {
  if (!error.status) return t("error.network");
  return error.code
    ? error.message
    : t("error.status", { status: String(error.status), message: error.message });
}

/** Tell that the server will be asked again. */
export function onWait({ milliseconds, attempt, tries, status }) {
  const words = { seconds: numeral(milliseconds / 1000), attempt, tries };
  notice(t(status === 429 ? "error.busy" : "error.starting", words));
}
