// The picture with its masks: scrubbing, drawing, zoom and keys. Everything that lasts is on the
// server: this component asks for the picture and the mask of a frame, and tells what was drawn.

const STEP = { ArrowLeft: -1, ArrowRight: 1 };
const TOOLS = { b: "brush", e: "eraser", p: "polygon", x: "box", k: "point" };
const LETTERS = { n: "new", "?": "help", Delete: "clear", Backspace: "clear" };

export default {
  template: `
    <div class="studio-canvas">
      <div ref="view" class="studio-view" :class="{ panning: held }" :data-shown="shown"
        @pointerdown="down" @pointermove="move" @pointerup="up" @pointercancel="stroke = null"
        @pointerleave="pointer = null" @dblclick="closePolygon" @wheel.prevent="wheel"
        @contextmenu.prevent>
        <div class="studio-layers" :style="layers">
          <img v-if="image" :src="image" draggable="false" alt="frame">
          <img v-if="mask" v-show="!hidden" :src="mask" draggable="false" alt="masks"
            :style="{ opacity: kind === 'points' ? 1 : opacity }">
          <svg ref="svg" :viewBox="'0 0 ' + width + ' ' + height" preserveAspectRatio="none">
            <template v-for="(s, i) in [...sent, ...(stroke ? [stroke] : [])]" :key="i">
              <polyline v-if="s.tool === 'brush' || s.tool === 'eraser'" :points="text(s.path)"
                fill="none" :stroke="s.tool === 'eraser' ? '#888' : color" :stroke-width="2 * s.radius"
                stroke-linecap="round" stroke-linejoin="round" opacity="0.6" />
              <polygon v-else-if="s.tool === 'polygon'" :points="text(s.path)" :fill="color"
                fill-opacity="0.35" :stroke="color" :stroke-width="line" />
              <polygon v-else-if="s.tool === 'box'" :points="text(corners(s.path))" :fill="color"
                fill-opacity="0.35" :stroke="color" :stroke-width="line" />
              <circle v-else :cx="s.path[0][0]" :cy="s.path[0][1]" :r="3 * line" :fill="color" />
            </template>
            <circle v-if="pointer && kind === 'objects' && (using === 'brush' || using === 'eraser')"
              :cx="pointer[0]" :cy="pointer[1]" :r="radius" fill="none" stroke="#fff"
              :stroke-width="line" style="mix-blend-mode: difference" />
          </svg>
        </div>
        <div v-if="problem" class="studio-problem">{{ problem }}</div>
      </div>
      <div v-if="bar" class="studio-strip" @pointerdown="jump" @pointermove="$event.buttons && jump($event)">
        <span class="ready" :style="span(ready[0], ready[1])"></span>
        <span v-for="m in marks" class="mark" :style="span(m, m + 1)"></span>
        <span class="here" :style="span(frame, frame + 1)"></span>
      </div>
      <div v-if="bar" class="studio-bar">
        <button @click="go(0)" title="First frame (Home)" aria-label="First frame"><q-icon name="skip_previous" size="20px" /></button>
        <button @click="go(frame - 1)" title="Previous frame (←)" aria-label="Previous frame"><q-icon name="chevron_left" size="20px" /></button>
        <button @click="playing = !playing" title="Play (Space)" aria-label="Play"><q-icon :name="playing ? 'pause' : 'play_arrow'" size="20px" /></button>
        <button @click="go(frame + 1)" title="Next frame (→)" aria-label="Next frame"><q-icon name="chevron_right" size="20px" /></button>
        <input type="range" min="0" :max="frames - 1" :value="frame" aria-label="Frame"
          @input="go(Number($event.target.value))">
        <span class="count">{{ frame }} / {{ frames - 1 }} · {{ (frame / fps).toFixed(2) }} s</span>
        <button @click="zoomBy(1.25)" title="Zoom in (+)" aria-label="Zoom in"><q-icon name="zoom_in" size="20px" /></button>
        <button @click="zoomBy(0.8)" title="Zoom out (-)" aria-label="Zoom out"><q-icon name="zoom_out" size="20px" /></button>
        <button @click="reset" title="Whole picture (0)" aria-label="Whole picture"><q-icon name="fit_screen" size="20px" /></button>
      </div>
    </div>
  `,
  props: {
    video: Number,
    frames: Number,
    fps: Number,
    width: Number,
    height: Number,
    marks: Array,
    ready: Array,
    latest: Number,
    version: Number,
    model: String,
    kind: String,
    radius: Number,
    color: String,
    opacity: Number,
    drawable: Boolean,
    keys: Boolean,
    bar: Boolean,
  },
  data: () => ({
    frame: 0,
    image: null,
    mask: null,
    shown: null, // the frame that is visible: what is drawn belongs to it
    loading: false,
    problem: "",
    using: "brush", // the tool: a key changes it at once, and the server is told
    stroke: null,
    sent: [], // drawn, but not in a mask from the server yet
    pointer: null,
    hidden: false,
    playing: false,
    follow: true,
    scale: 1,
    offset: [0, 0],
    held: null,
  }),
  computed: {
    line() {
      return Math.max(1, this.width / 500 / this.scale);
    },
    layers() {
      const [x, y] = this.offset;
      return {
        aspectRatio: this.width + " / " + this.height,
        maxWidth: "calc(70vh * " + this.width / this.height + ")",
        transform: "translate(" + x + "px," + y + "px) scale(" + this.scale + ")",
      };
    },
  },
  watch: {
    frame() {
      this.load();
      this.$emit("seek", { frame: this.frame });
    },
    version() {
      this.load();
    },
    model() {
      this.load();
    },
    kind() {
      this.load();
    },
    video() {
      this.frame = this.bar ? 0 : Math.max(0, this.latest);
      this.shown = null;
      this.reset();
      this.load();
    },
    latest(frame) {
      if (this.follow && frame >= 0) this.frame = frame;
    },
    using() {
      this.stroke = null;
    },
  },
  mounted() {
    this.load();
    this.listener = (event) => this.keys && this.key(event);
    document.addEventListener("keydown", this.listener);
    this.timer = setInterval(() => {
      if (this.playing && !this.loading) this.go(this.frame + 1 < this.frames ? this.frame + 1 : 0);
    }, 1000 / Math.min(this.fps, 30));
  },
  unmounted() {
    document.removeEventListener("keydown", this.listener);
    clearInterval(this.timer);
  },
  methods: {
    // Loading: one request at a time, the latest wish next, so that scrubbing never queues.
    async load() {
      this.wanted = true;
      if (this.loading || this.video < 0) return;
      this.loading = true;
      while (this.wanted) {
        this.wanted = false;
        const frame = this.frame;
        const sent = this.sent.length;
        const place = this.video + "/" + frame;
        try {
          const fetched = [fetch("/mask/" + place + "/" + this.model + "/" + this.kind)];
          if (this.shown !== frame) fetched.push(fetch("/frame/" + place));
          const [mask, image] = await Promise.all((await Promise.all(fetched)).map(this.blob));
          if (image !== undefined) this.swap("image", image);
          this.swap("mask", mask);
          this.shown = frame;
          this.sent.splice(0, sent);
          this.problem = "";
        } catch (error) {
          this.problem = String(error.message || error);
          this.shown = null;
        }
      }
      this.loading = false;
    },
    async blob(response) {
      if (!response.ok) throw new Error(await response.text());
      return response.status === 204 ? null : URL.createObjectURL(await response.blob());
    },
    swap(name, url) {
      if (this[name]) URL.revokeObjectURL(this[name]);
      this[name] = url;
    },

    // Time
    go(frame) {
      this.follow = false;
      this.frame = Math.max(0, Math.min(this.frames - 1, frame));
    },
    jump(event) {
      const box = event.currentTarget.getBoundingClientRect();
      this.go(Math.floor(((event.clientX - box.left) / box.width) * this.frames));
    },
    span(first, end) {
      const part = (n) => (100 * n) / Math.max(1, this.frames) + "%";
      return { left: part(first), width: part(end - first) };
    },

    // Drawing, in pixels of the frame
    at(event) {
      const box = this.$refs.svg.getBoundingClientRect();
      const round = (value) => Math.round(value * 100) / 100;
      return [
        round(((event.clientX - box.left) / box.width) * this.width),
        round(((event.clientY - box.top) / box.height) * this.height),
      ];
    },
    text: (path) => path.map((point) => point.join(",")).join(" "),
    corners([[x0, y0], [x1, y1]]) {
      return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
    },
    down(event) {
      if (event.button === 1 || event.button === 2 || event.shiftKey) {
        this.held = [event.clientX - this.offset[0], event.clientY - this.offset[1]];
        this.$refs.view.setPointerCapture(event.pointerId);
        return;
      }
      if (!this.drawable || this.shown !== this.frame) return;
      document.activeElement?.blur(); // keys are for the picture from now on
      this.playing = false;
      this.follow = false;
      const tool = this.kind === "points" ? "point" : this.using;
      const point = this.at(event);
      if (tool === "polygon") {
        if (this.stroke) this.stroke.path.push(point);
        else this.begin(tool, [point]);
        return;
      }
      this.$refs.view.setPointerCapture(event.pointerId);
      this.begin(tool, tool === "box" ? [point, point] : [point]);
      if (tool === "point") this.finish();
    },
    begin(tool, path) {
      this.stroke = { tool, path, radius: this.radius, frame: this.shown };
    },
    move(event) {
      if (this.held) {
        this.offset = [event.clientX - this.held[0], event.clientY - this.held[1]];
        return;
      }
      this.pointer = this.at(event);
      if (!this.stroke || this.stroke.tool === "polygon") return;
      if (this.stroke.tool === "box") this.stroke.path.splice(1, 1, this.pointer);
      else this.stroke.path.push(this.pointer);
    },
    up(event) {
      this.held = null;
      if (!this.stroke || this.stroke.tool === "polygon") return;
      this.move(event);
      this.finish();
    },
    closePolygon() {
      if (!this.stroke || this.stroke.tool !== "polygon") return false;
      if (this.stroke.path.length > 2) this.finish();
      this.stroke = null;
      return true;
    },
    finish() {
      const stroke = this.stroke;
      this.stroke = null;
      const [a, b] = stroke.path;
      if (stroke.tool === "box" && (a[0] === b[0] || a[1] === b[1])) return;
      this.sent.push(stroke);
      this.$emit("draw", stroke);
    },

    // Zoom
    zoomBy(factor, event) {
      const scale = Math.max(1, Math.min(20, this.scale * factor));
      const box = this.$refs.view.getBoundingClientRect();
      const x = event ? event.clientX - box.left : box.width / 2;
      const y = event ? event.clientY - box.top : box.height / 2;
      const grow = scale / this.scale;
      this.offset = [x - grow * (x - this.offset[0]), y - grow * (y - this.offset[1])];
      this.scale = scale;
      if (scale === 1) this.offset = [0, 0];
    },
    wheel(event) {
      this.zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, event);
    },
    reset() {
      this.scale = 1;
      this.offset = [0, 0];
    },

    // Keys
    key(event) {
      const target = event.target;
      const typing = target.matches("input:not([type=range]), textarea, [contenteditable=true]");
      if (typing || document.querySelector(".q-dialog, .q-menu")) return;
      const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      if ((name === "Enter" || name === " ") && target.closest("button")) return; // presses it
      if (event.ctrlKey || event.metaKey) {
        if (name === "z") this.command(event, event.shiftKey ? "redo" : "undo");
        if (name === "y") this.command(event, "redo");
        return;
      }
      if (event.altKey) return;
      if (name in STEP) this.go(this.frame + STEP[name] * (event.shiftKey ? 10 : 1));
      else if (name === "Home") this.go(0);
      else if (name === "End") this.go(this.frames - 1);
      else if (name === "PageUp" || name === "PageDown") this.toMark(name === "PageDown");
      else if (name === " ") this.playing = !this.playing;
      else if (name in TOOLS) {
        this.using = TOOLS[name];
        this.command(event, "tool", this.using);
      }
      else if (name >= "1" && name <= "9") return this.command(event, "item", Number(name));
      else if (name === "[" || name === "]") return this.command(event, "radius", name === "]" ? 1 : -1);
      else if (name === "h") this.hidden = !this.hidden;
      else if (name === "f") this.follow = !this.follow;
      else if (name === "+" || name === "=") this.zoomBy(1.25);
      else if (name === "-") this.zoomBy(0.8);
      else if (name === "0") this.reset();
      else if (name === "Escape") this.stroke = null;
      else if (name === "Enter") return this.closePolygon() || this.command(event, "run");
      else if (name in LETTERS) return this.command(event, LETTERS[name]);
      else return;
      event.preventDefault();
    },
    toMark(forward) {
      const found = forward
        ? this.marks.find((m) => m > this.frame)
        : [...this.marks].reverse().find((m) => m < this.frame);
      if (found !== undefined) this.go(found);
    },
    command(event, name, value = null) {
      event.preventDefault();
      this.$emit("command", { name, value, frame: this.frame });
    },
    use(tool) {
      this.using = tool;
    },
    tell(name) {
      this.$emit("command", { name, value: null, frame: this.frame });
    },
    startFollowing() {
      this.follow = true;
    },
  },
};
