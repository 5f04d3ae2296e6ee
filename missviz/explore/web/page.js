// A page without a kernel: the frames of a panel, drawn ahead, and a model that answers with them.

/** @typedef {{key: string, words: string, picture: string}} Stored */

/** @param {string} base64 */
function bytesOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new DataView(bytes.buffer);
}

/** The model that `render` is given. Frames are keyed "epoch:place,place,…"; "reveal" leads from
 * the epoch before to the one after.
 * @param {Record<string, any>} state
 * @param {Record<string, [string, string]>} frames words and picture by key */
function storedModel(state, frames) {
  /** @type {Record<string, ((...parts: any[]) => void)[]>} */
  const heard = {};
  const tell = (/** @type {string} */ event) => (heard[event] ?? []).forEach((react) => react());
  const answer = () => {
    const key = `${state._epoch}:${state._places.join(",")}`;
    const [words, picture] = frames[key];
    state._picture = bytesOf(picture);
    state._frame = { key, words, failed: false };
    tell("change:_frame");
  };
  const model = {
    get: (/** @type {string} */ name) => state[name],
    set: (/** @type {string} */ name, /** @type {unknown} */ value) => {
      state[name] = value;
      tell(`change:${name}`);
    },
    save_changes: answer,
    send: () => {
      state._epoch += 1;
      model.set("_hidden", false);
      answer();
    },
    on: (/** @type {string} */ event, /** @type {() => void} */ react) => {
      (heard[event] ??= []).push(react);
    },
    off: () => {},
  };
  answer();
  return model;
}
