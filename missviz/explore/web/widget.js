// What the browser shows of a panel or a question: controls, picture, words. Nothing is computed
// here: Python sends frames, each a picture with its words, and every frame is kept.

/** Frames kept in the page: about 150 kB each. */
const MOST_FRAMES = 256;
/** Milliseconds after which a frame that did not come is asked for again, and twice that the next
 * time: Jupyter's server drops what is too much at once. */
const PATIENCE = 2000;
/** Milliseconds that a film waits for a frame, and after which a kernel is said to be gone. */
const LONGEST = 10_000;
const GONE = "No answer from the kernel. If it was started again, run this cell again.";

/**
 * @typedef {{name: string, kind: "menu" | "slider", options: string[]}} Control
 * @typedef {{key: string, words: string, failed: boolean}} Frame
 * @typedef {{scale: number, paper: string, ink: string, width: number, height: number,
 *   pixels: number, fill: boolean,
 *   tallest: number}} Look
 * @typedef {{get: (name: string) => any, set: (name: string, value: unknown) => void,
 *   save_changes: () => void, send: (message: unknown) => void,
 *   on: (event: string, heard: (...parts: any[]) => void) => void,
 *   off: (event: string, heard: (...parts: any[]) => void) => void}} Model
 */

/** An element with attributes and children.
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {(Node | string)[]} [children]
 * @returns {any} */
function make(tag, attributes = {}, children = []) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** What takes the focus: JupyterLab's shortcuts stay out, so that letters and arrows reach it.
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {(Node | string)[]} [children] */
function touchable(tag, attributes, children = []) {
  return make(tag, { ...attributes, "data-lm-suppress-shortcuts": "true" }, children);
}

/** The outermost element, in the colours and the size of text that Python asks for.
 * @param {Look} look */
function frameOf(look) {
  const root = make("div", { class: "missviz" });
  root.style.setProperty("--scale", String(look.scale));
  root.style.background = look.paper;
  root.style.color = look.ink;
  root.classList.toggle("fill", look.fill);
  root.addEventListener("keydown", passOn);
  return root;
}

/** Shift-Enter and its like run cells, also while a control has the focus.
 * @param {KeyboardEvent} event */
function passOn(event) {
  const notebook = notebookOf(/** @type {Element} */ (event.currentTarget));
  const { key, code, shiftKey, ctrlKey, altKey, metaKey } = event;
  if (!notebook || key !== "Enter" || !(shiftKey || ctrlKey || altKey || metaKey)) return;
  event.preventDefault();
  event.stopPropagation();
  notebook.focus({ preventScroll: true });
  const same = { key, code, shiftKey, ctrlKey, altKey, metaKey, keyCode: event.keyCode };
  notebook.dispatchEvent(new KeyboardEvent("keydown", { ...same, bubbles: true, cancelable: true }));
}

/** The notebook of JupyterLab or Notebook that an element stands in, or null.
 * @param {Element} node
 * @returns {HTMLElement | null} */
function notebookOf(node) {
  return node.closest(".jp-Notebook");
}

/** Follows changes of the model until the view is gone.
 * @param {Model} model
 * @param {Record<string, (...parts: any[]) => void>} heard */
function follow(model, heard) {
  for (const [event, react] of Object.entries(heard)) model.on(event, react);
  return () => {
    for (const [event, react] of Object.entries(heard)) model.off(event, react);
  };
}

// --- Controls --------------------------------------------------------------------------------

/** One control: names in a menu, numbers on a slider with its values below.
 * @param {Control} control
 * @param {number} scale of text
 * @param {(place: number) => void} moved */
function controlOf(control, scale, moved) {
  const labels = control.options;
  const shown = control.name.replaceAll("_", " ");
  const input =
    control.kind === "menu"
      ? touchable("select", { "aria-label": shown }, labels.map((label) => make("option", {}, [label])))
      : touchable("input", { type: "range", min: "0", max: String(labels.length - 1), step: "1",
          "aria-label": shown });
  const place = () => (control.kind === "menu" ? input.selectedIndex : Number(input.value));
  input.addEventListener("input", () => moved(place()));
  const parts = [make("span", { class: "name" }, [shown])];
  const readout = make("output");
  if (control.kind === "menu") {
    parts.push(input);
  } else {
    readout.style.minWidth = `${Math.max(...labels.map((label) => label.length)) + 0.5}ch`;
    parts.push(make("span", { class: "slider" }, [input, scaleOf(labels, scale)]), readout);
  }
  const show = (/** @type {number} */ at) => {
    if (control.kind === "menu") input.selectedIndex = at;
    else input.value = String(at);
    input.setAttribute("aria-valuetext", labels[at]);
    readout.textContent = labels[at];
  };
  return { node: make("label", { class: "control" }, parts), show };
}

/** The values of a slider below it: all of them, or the ends where they would touch.
 * @param {string[]} labels
 * @param {number} scale of text */
function scaleOf(labels, scale) {
  const [narrowest, letter] = [160, 0.75 * 0.62 * 14 * scale];
  const apart = labels.slice(1).every((label, place) =>
    ((label.length + labels[place].length) / 2 + 0.7) * letter < narrowest / (labels.length - 1));
  const ends = apart ? labels : [labels[0], labels[labels.length - 1]];
  return make("span", { class: apart ? "scale" : "scale ends", "aria-hidden": "true" },
    ends.map((label) => make("span", {}, [label])));
}

// --- A panel ---------------------------------------------------------------------------------

/** @param {Model} model */
function panel(model) {
  /** @type {Look} */
  const look = model.get("_look");
  /** @type {Control[]} */
  const controls = model.get("_controls");
  const root = frameOf(look);
  /** @type {Map<string, {url: string, words: string, failed: boolean}>} */
  const frames = new Map();
  let showing = "";

  const picture = make("img", { class: "picture" });
  const words = make("div", { class: "words", role: "status" });
  // In a lecture there is room for two lines; a click shows the others.
  words.addEventListener("click", () => words.classList.toggle("open"));
  const note = make("div", { class: "note" });
  const reveal = touchable("button", { type: "button", class: "reveal" }, ["Reveal"]);
  const row = make("div", { class: "controls" });
  root.append(row, picture, words, note);

  // Never larger than its pixels allow.
  const sharp = `${Math.floor(look.pixels / (window.devicePixelRatio || 1))}px`;
  const ratio = look.width / look.height;
  picture.style.width = look.fill
    ? `min(100%, ${sharp}, ${(100 * look.tallest * ratio).toFixed(1)}vh)`
    : `min(100%, ${look.width}px)`;
  picture.style.aspectRatio = `${look.width} / ${look.height}`;

  const places = () => /** @type {number[]} */ (model.get("_places"));
  let epoch = 0;
  const key = () => `${epoch}:${places().join(",")}`;
  const lacking = () => frames.get(key())?.failed ?? true;

  // One frame is asked for at a time: a hand is faster than the kernel, and may be elsewhere by then.
  let wanted = "";
  let patience = PATIENCE;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let impatient;
  let turn = 0;
  const tell = (/** @type {boolean} */ moved) => {
    const want = !wanted && lacking();
    if (want) {
      wanted = places().join(",");
      impatient = setTimeout(() => {
        patience *= 2;
        if (patience > LONGEST) note.textContent = GONE;
        wanted = "";
        tell(false);
      }, patience);
    }
    if (moved || want) {
      // Later turns count, in whichever order they are heard; also those of another view of this.
      turn = Math.max(turn + 1, Date.now());
      model.send({ kind: "move", turn, places: places(), want });
    }
  };
  const ask = (/** @type {number} */ index, /** @type {number} */ place) => {
    const next = [...places()];
    next[index] = place;
    model.set("_places", next);
    tell(true);
  };
  const handles = controls.map((control, index) =>
    controlOf(control, look.scale, (place) => {
      stop();
      ask(index, place);
    }),
  );

  const show = (/** @type {string} */ wanted) => {
    const frame = frames.get(wanted);
    if (!frame) return;
    showing = wanted;
    if (frame.url && picture.getAttribute("src") !== frame.url) picture.src = frame.url;
    picture.alt = frame.words;
    words.textContent = frame.words;
    words.classList.toggle("failed", frame.failed);
  };
  const keep = (/** @type {Frame} */ frame, /** @type {DataView | undefined} */ bytes) => {
    const known = frames.get(frame.key);
    if (known && !known.failed) return;
    const url = frame.failed || !bytes
      ? "" : URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    frames.set(frame.key, { url, words: frame.words, failed: frame.failed });
    for (const [old, { url: unused }] of frames) {
      if (frames.size <= MOST_FRAMES) break;
      if (old === showing || old === frame.key) continue;
      if (unused) URL.revokeObjectURL(unused);
      frames.delete(old);
    }
  };
  /** Whether the picture is that of the controls, for screen readers. */
  const mark = () => root.setAttribute("aria-busy", String(showing !== key()));
  const come = (/** @type {Frame} */ frame, /** @type {DataView | undefined} */ bytes) => {
    const [era, at] = frame.key.split(":");
    const anew = Number(era) > epoch;
    if (anew) epoch = Number(era);
    keep(frame, bytes);
    const answered = at === wanted;
    if (answered) {
      clearTimeout(impatient);
      [wanted, patience] = ["", PATIENCE];
      report();
      // While a hand is faster than the kernel, an earlier frame is better than none.
      show(frame.key);
    }
    // Somewhere else by now, or all frames have changed: a ghost, an outcome revealed.
    if (answered || anew) tell(false);
    show(key());
    mark();
  };
  const told = () => {
    /** @type {Frame} */
    const frame = model.get("_frame");
    come(frame, model.get("_picture"));
    if (showing === "") show(frame.key);
  };
  const move = () => {
    handles.forEach((handle, index) => handle.show(places()[index]));
    show(key());
    mark();
  };

  // A film: one control steps through its values, each as soon as the one before was seen.
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const stop = () => {
    clearTimeout(timer);
    timer = undefined;
    buttons.forEach((button) => button?.classList.remove("playing"));
  };
  const play = (/** @type {number} */ index, /** @type {number} */ seconds) => {
    const last = controls[index].options.length - 1;
    const step = (/** @type {number} */ since) => {
      const waiting = showing !== key() && performance.now() - since < LONGEST;
      if (!waiting && places()[index] === last) return stop();
      if (!waiting) ask(index, places()[index] + 1);
      timer = setTimeout(step, waiting ? 50 : 1000 * seconds,
        waiting ? since : performance.now());
    };
    stop();
    buttons[index]?.classList.add("playing");
    if (places()[index] === last) {
      ask(index, 0);
      timer = setTimeout(step, 1000 * seconds, performance.now());
    } else step(performance.now());
  };
  const buttons = controls.map((control, index) => {
    if (control.options.length <= 3) return undefined;
    const title = `play ${control.name.replaceAll("_", " ")}`;
    const button = touchable("button", { type: "button", class: "play", title, "aria-label": title });
    button.addEventListener("click", () =>
      button.classList.contains("playing") ? stop() : play(index, 1),
    );
    return button;
  });
  const asked = () => {
    const film = model.get("_film");
    const index = controls.findIndex((control) => control.name === film.control);
    if (index < 0) return;
    // Once, in one of the places that show this panel.
    model.set("_film", {});
    model.send({ kind: "film" });
    play(index, film.seconds);
  };

  handles.forEach((handle, index) => {
    const play = buttons[index];
    row.append(make("span", { class: "group" }, play ? [handle.node, play] : [handle.node]));
  });
  row.append(reveal);
  reveal.addEventListener("click", () => model.send({ kind: "reveal" }));
  const hide = () => {
    const left = document.activeElement === reveal && !model.get("_hidden");
    reveal.toggleAttribute("hidden", !model.get("_hidden"));
    // What is hidden loses the focus to nothing, and with it the keys of the notebook.
    if (left) (notebookOf(root) ?? row.querySelector("input, select"))?.focus({ preventScroll: true });
  };
  const report = () => {
    note.textContent = model.get("_note");
  };
  const heard = (/** @type {any} */ message, /** @type {DataView[]} */ buffers) => {
    if (message?.kind === "frame") come(message.frame, buffers[0]);
  };

  hide();
  report();
  told();
  move();
  // A page that is opened again has an older picture than its controls.
  tell(false);
  asked();
  const leave = follow(model, {
    "change:_places": move,
    "change:_frame": told,
    "change:_hidden": hide,
    "change:_note": report,
    "change:_film": asked,
    "msg:custom": heard,
  });
  return {
    root,
    leave: () => {
      stop();
      clearTimeout(impatient);
      leave();
      frames.forEach(({ url }) => url && URL.revokeObjectURL(url));
    },
  };
}

// --- A question ------------------------------------------------------------------------------

/** @param {Model} model */
function question(model) {
  const root = frameOf(model.get("_look"));
  const group = `missviz-${Math.random().toString(36).slice(2)}`;
  const choices = /** @type {string[]} */ (model.get("_choices")).map((choice, place) => {
    const input = touchable("input", { type: "radio", name: group });
    input.addEventListener("change", () => {
      model.set("_guess", place);
      model.save_changes();
    });
    return { input, node: make("label", { class: "choice" }, [input, choice]) };
  });
  const note = make("div", { class: "words", role: "status" });
  root.append(
    make("fieldset", {}, [
      make("legend", {}, [make("b", {}, ["Predict: "]), model.get("_question")]),
      ...choices.map((choice) => choice.node),
    ]),
    note,
  );
  const show = () => {
    choices.forEach((choice, place) => {
      choice.input.checked = place === model.get("_guess");
      choice.input.disabled = model.get("_closed");
    });
    note.textContent = model.get("_words");
  };
  show();
  const heard = { "change:_guess": show, "change:_words": show, "change:_closed": show };
  const leave = follow(model, heard);
  return { root, leave };
}

/** @param {{model: Model, el: HTMLElement}} view */
function render({ model, el }) {
  const { root, leave } = model.get("_kind") === "question" ? question(model) : panel(model);
  el.append(root);
  return leave;
}

export default { render };
