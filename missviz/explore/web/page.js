// A page without a kernel: the frames of a panel, drawn ahead, and a model that answers with them.

/** @typedef {{key: string, words: string, picture: string}} Stored */

/** @param {string} base64 */
function bytesOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new DataView(bytes.buffer);
}

/** The model that `render` is given. Frames are keyed "epoch:place,place,…": 0 before the outcome
 * is revealed, 1 after.
 * @param {Record<string, any>} state
 * @param {Record<string, [string, string]>} frames words and picture by key */
function storedModel(state, frames) {
  /** @type {Record<string, ((...parts: any[]) => void)[]>} */
  const heard = {};
  const tell = (/** @type {string} */ event, /** @type {any[]} */ ...parts) =>
    (heard[event] ?? []).forEach((react) => react(...parts));
  let epoch = 0;
  const frameAt = (/** @type {number[]} */ places) => {
    const key = `${epoch}:${places.join(",")}`;
    const [words, picture] = frames[key];
    return { frame: { key, words, failed: false }, bytes: bytesOf(picture) };
  };
  const model = {
    get: (/** @type {string} */ name) => state[name],
    set: (/** @type {string} */ name, /** @type {unknown} */ value) => {
      state[name] = value;
      tell(`change:${name}`);
    },
    save_changes: () => {},
    send: (/** @type {any} */ message) => {
      if (message.kind === "reveal") {
        epoch += 1;
        model.set("_hidden", false);
      } else if (!message.want) {
        return;
      }
      const { frame, bytes } = frameAt(state._places);
      tell("msg:custom", { kind: "frame", frame }, [bytes]);
    },
    on: (/** @type {string} */ event, /** @type {() => void} */ react) => {
      (heard[event] ??= []).push(react);
    },
    off: () => {},
  };
  const first = frameAt(state._places);
  Object.assign(state, { _frame: first.frame, _picture: first.bytes });
  return model;
}
