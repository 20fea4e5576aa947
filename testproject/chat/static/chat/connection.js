// A WebSocket that comes back: it tells what state it is in, and tries again at growing distances.

const FIRST = 500, LONGEST = 15_000; // milliseconds between two attempts
const PATIENCE = 10_000; // how long an answer may take before the link counts as dead

export class Connection extends EventTarget {
  #url; #hello; #welcome; #probe;
  #socket = null; #welcomed = false; #failures = 0; #retry = 0; #deadline = 0;

  // `hello` makes the first frame of every connection, and the frame of type `welcome` answers it: only then is it open.
  // `probe` is a frame that the server answers.
  // Events: "state" (detail: {state, delay}), "frame" (detail: what the server sent), "probe" (it was just sent).
  constructor(url, { hello, welcome, probe, every }) {
    super();
    this.#url = url;
    this.#hello = hello;
    this.#welcome = welcome;
    this.#probe = probe;
    setInterval(() => this.check(), every);
    addEventListener("online", () => this.retryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.retryNow());
  }

  get open() {
    return this.#welcomed && this.#socket.readyState === WebSocket.OPEN;
  }

  connect() {
    this.#drop();
    const socket = this.#socket = new WebSocket(this.#url);
    this.#tell("connecting");
    this.#expect();
    socket.onopen = () => socket.send(JSON.stringify(this.#hello()));
    socket.onmessage = ({ data }) => {
      clearTimeout(this.#deadline);
      const frame = JSON.parse(data);
      if (!this.#welcomed && frame.type === this.#welcome) {
        this.#welcomed = true;
        this.#failures = 0;
        this.#tell("open");
      }
      this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
    };
    socket.onclose = () => this.#lost();
  }

  // Stay away until `connect` is called.
  close() {
    this.#drop();
  }

  // True if the frame was handed to an open connection.
  send(frame) {
    if (this.open) this.#socket.send(JSON.stringify(frame));
    return this.open;
  }

  // A link can die without a word, so ask now and then, and take silence for an answer.
  check() {
    if (!this.send(this.#probe)) return;
    this.#expect();
    this.dispatchEvent(new Event("probe"));
  }

  retryNow() {
    if (this.#retry) this.connect();
  }

  #expect() {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#lost(), PATIENCE);
  }

  #lost() {
    this.#drop();
    const delay = Math.min(FIRST * 2 ** this.#failures++, LONGEST) * (0.75 + Math.random() / 4);
    this.#retry = setTimeout(() => this.connect(), delay);
    this.#tell("lost", delay);
  }

  #drop() {
    clearTimeout(this.#retry);
    clearTimeout(this.#deadline);
    this.#retry = 0;
    if (this.#socket) {
      this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close();
    }
    this.#socket = null;
    this.#welcomed = false;
  }

  #tell(state, delay = 0) {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, delay } }));
  }
}
