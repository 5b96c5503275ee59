// Functions that run before the first task or after the last one: schema check, help, code revision, completion table.
// They hold no science: names, types and ranges come from nextflow_schema.json, states from run_status.tsv.

// Value of a JSON file.
def readJson(path) {
    return new groovy.json.JsonSlurper().parseText(path.text)
}

// JSON text that is safe between single quotes in a shell script.
def jsonText(value) {
    return groovy.json.JsonOutput.toJson(value).replace("'", '\\u0027')
}

// What each process is told of a run. A text holds only what its process reads, so that a change of the scoring, or of the
// inference, does not train again, and files are no part of it.
def runTexts(run) {
    def training = run.config.subMap(['model', 'train'])
    def ids = run.findAll { name, _value -> !(name in ['config', 'evaluate', 'model', 'recon']) }
    return [
        train: jsonText(ids + [config: training]),
        reconstruct: jsonText(ids + [config: run.config]),
        evaluate: jsonText(ids + [evaluate: run.evaluate]),
    ]
}

// All parameters of a schema: name -> specification, in order.
def parametersOf(schema) {
    return schema['$defs'].values().inject([:]) { all, group -> all + group.properties }
}

// Number of edits (insert, delete, replace) that turn a into b.
def editDistance(a, b) {
    def rows = (1..a.size()).inject((0..b.size()).toList()) { above, i ->
        (1..b.size()).inject([i]) { row, j ->
            def replaced = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)
            row + [[row[j - 1] + 1, above[j] + 1, replaced].min()]
        }
    }
    return rows.last()
}

// " (did you mean ...?)" for the known name closest to a name, or nothing.
def nearest(name, known, prefix = '') {
    def flat = name.toString().toLowerCase().replace('-', '_')
    def best = known.min { candidate -> editDistance(flat, candidate.toLowerCase()) }
    def near = best && editDistance(flat, best.toLowerCase()) <= Math.max(2, flat.size().intdiv(3))
    return near ? " (did you mean '${prefix}${best}'?)" : ''
}

// A parameter's value in the type of its schema entry; null when it cannot be one.
// Command lines are loose (--seeds 1 is an Integer, --learning_rate 1e-3 a String), the plan is not.
def coerced(type, value) {
    def text = value.toString()
    if( type instanceof List ) {
        return type.findAll { one -> one != 'null' }.findResult { one -> coerced(one, value) }
    }
    if( type == 'boolean' ) {
        return text in ['true', 'false'] ? text == 'true' : null
    }
    if( value instanceof Boolean ) {
        return null
    }
    if( type == 'integer' ) {
        return text ==~ /[+-]?\d+/ ? text as Long : null
    }
    if( type == 'number' ) {
        return text.isBigDecimal() ? text as BigDecimal : null
    }
    return text
}

// What is wrong with one value, or null.
def complaint(name, spec, given, value) {
    if( given instanceof Boolean && value == null ) {
        return "--${name} needs a value (${spec.type})"
    }
    if( value == null ) {
        return "--${name} must be ${spec.type}, got '${given}'"
    }
    def choices = spec['enum']
    if( choices && !(value in choices) ) {
        return "--${name} must be one of ${choices.join(', ')}, got '${value}'" + nearest(value, choices*.toString())
    }
    if( spec.minimum != null && value < spec.minimum ) {
        return "--${name} must be at least ${spec.minimum}, got ${value}"
    }
    if( spec.exclusiveMinimum != null && value <= spec.exclusiveMinimum ) {
        return "--${name} must be greater than ${spec.exclusiveMinimum}, got ${value}"
    }
    if( spec.maximum != null && value > spec.maximum ) {
        return "--${name} must be at most ${spec.maximum}, got ${value}"
    }
    if( spec.pattern && !(value ==~ spec.pattern) ) {
        return "--${name} must match ${spec.pattern}, got '${value}'"
    }
    def fault = spec.format == 'file-path' ? unusableName(file(value, glob: false)) : null
    return fault ? "--${name} ${fault}" : null
}

// What a file's name must not have, or null. When Nextflow links a file into a task it quotes blanks, quotes, backticks,
// parentheses and the like; what is looked for here it hands to the shell as it is: to be expanded, or, after a line break, run.
def unusableName(path) {
    def name = path.toString()
    def faults = [
        'a line break or another control character': name =~ /\p{Cntrl}/,
        'one of * ? [ ] { }': name =~ /[*?\[\]{}]/,
        'a $ before a letter, a digit or one of _ # @ $ -': name =~ /\$[A-Za-z0-9_#@$-]/,
    ]
    def found = faults.findResult { fault, matched -> matched ? fault : null }
    def shown = name.replaceAll(/\p{Cntrl}/, '?')
    return found ? "'${shown}': no task could read a file with ${found} in its name or folders; rename it" : null
}

// What is wrong with a link that lies below a sheet's folder and leads out of it, or null: a sheet that came with its files may
// be somebody else's. A name that leaves the folder by itself ('../', an absolute path) can be seen in the sheet.
def leadsOut(path, folder) {
    if( !folder || path.fileSystem != java.nio.file.FileSystems.default || !path.startsWith(folder) || !path.exists() ) {
        return null
    }
    def target = path.toRealPath()
    return target.startsWith(folder.toRealPath())
        ? null
        : "${path} is a link to ${target}, out of the sheet's folder; name that file in the sheet, or copy it"
}

// Parameters that were given, in the types of the schema. Ends the run with every problem at once.
def checkedParameters(given, schema) {
    def known = parametersOf(schema)
    // Nextflow stores --min-success twice, as min-success and minSuccess: name the problem once, as it was typed.
    def shadows = given.keySet().findAll { name -> name.contains('-') }*.replaceAll(/-([a-z])/) { parts -> parts[1].toUpperCase() }
    def unknown = given.keySet().findAll { name -> !known.containsKey(name) && !(name in shadows) }.sort()
    def resume = 'resume' in unknown ? ['--resume is not a parameter: write -resume, with one dash'] : []
    def strangers = (unknown - 'resume').collect { name -> "unknown parameter --${name}${nearest(name, known.keySet(), '--')}" }
    def values = given.findAll { name, value -> known.containsKey(name) && value != null }
    def typed = values.collectEntries { name, value -> [name, coerced(known[name].type, value)] }
    def wrong = values.collect { name, value -> complaint(name, known[name], value, typed[name]) }.findAll { text -> text }
    def problems = resume + strangers + wrong
    if( problems ) {
        def count = problems.size() == 1 ? 'A problem' : "${problems.size()} problems"
        def text = problems.collect { problem -> "  - ${problem}" }.join('\n')
        error("${count} with the parameters:\n${text}\nSee all parameters: nextflow run main.nf --help")
    }
    return typed
}

// Parameters that PLAN expands: all but those of the group "operation" and the two files it receives as files.
def planParameters(typed, schema) {
    def operation = schema['$defs'].operation.properties.keySet()
    return typed.findAll { name, _value -> !(name in operation) && !(name in ['input', 'study']) }.sort()
}

// Parameters in which the interpreter of the external code is an absolute path: it is named like any program, as seen from the
// launch folder, but never resolved, since an environment is found by its link. The checkout itself must be given in full.
def withInterpreter(given, launchFolder) {
    def python = given.ptychovit_python
    return python && !python.contains('://')
        ? given + [ptychovit_python: launchFolder.resolve(python).normalize().toString()]
        : given
}

// Where external code and weights are: options of the command, and files that tasks link. A single weights file takes its
// config.yaml from beside it.
def suppliedCode(given) {
    def checkpoint = given.ptychovit_checkpoint ? file(given.ptychovit_checkpoint, checkIfExists: true) : []
    def beside = checkpoint && !checkpoint.isDirectory() ? checkpoint.resolveSibling('config.yaml') : null
    def config = given.ptychovit_base_config ?: (beside?.exists() ? beside : null)
    def options = [
        'ptychovit-repo': given.ptychovit_repo, 'ptychovit-python': given.ptychovit_python,
        'ptychovit-image': given.ptychovit_image, 'tree-digest': given.ptychovit_tree_digest,
        'allow-double': given.allow_double,
    ]
    return [
        options: options.findAll { _name, value -> value },
        checkpoint: checkpoint,
        base_config: config ? file(config, checkIfExists: true) : [],
    ]
}

// The parameters of this run, for the record.
def writeParameters(typed, path) {
    path.parent.mkdirs()
    path.text = groovy.json.JsonOutput.prettyPrint(groovy.json.JsonOutput.toJson(typed.sort())) + '\n'
}

// Help on all parameters, or on those that are not hidden.
def helpText(schema, full) {
    def groups = schema['$defs'].values().collect { group ->
        def shown = group.properties.findAll { _name, spec -> full || !spec.hidden }
        def lines = shown.collect { name, spec ->
            def value = spec.default == null ? '' : " [${spec.default}]"
            def choice = spec['enum'] ? " (${spec['enum'].join(' | ')})" : ''
            def more = full && spec.help_text ? '\n' + ' ' * 24 + spec.help_text : ''
            "  --${name}".padRight(23) + " ${spec.description}${choice}${value}${more}"
        }
        lines ? "${group.title}\n${lines.join('\n')}\n" : ''
    }
    def head = '''
        ptychoflow: which ptychographic reconstruction to trust, at which dose and overlap, and how fast it is

          nextflow run main.nf --input samplesheet.csv --models pinn_torch,lsqml
          nextflow run main.nf --study lines --models pinn_torch,lsqml --seeds 0,1,2
        '''.stripIndent()
    def foot = full ? '' : 'More: --help_full   The plan alone: --plan_only   Continue a run: -resume'
    return ([head] + groups.findAll { text -> text } + [foot]).join('\n')
}

// Revision of the package's sources: the same 16 digits as ptychoflow.provenance.code_revision.
def codeRevision(root) {
    def digest = java.security.MessageDigest.getInstance('SHA-256')
    def sources = files("${root}/**.py", hidden: true, type: 'file').collectEntries { path ->
        [root.relativize(path).toString().replace('\\', '/'), path]
    }
    sources.keySet().sort().each { name ->
        digest.update((name + '\0').getBytes('UTF-8'))
        digest.update(sources[name].bytes)
        digest.update(0 as byte)
    }
    return digest.digest().encodeHex().toString().take(16)
}

// The study file of --study: a path, or the name of one in conf/studies.
def studyFile(study, folder) {
    if( study ==~ /.*(\/|\.ya?ml)/ || study.contains('/') ) {
        def fault = unusableName(file(study, glob: false))
        return fault ? error("--study ${fault}") : file(study, checkIfExists: true)
    }
    def names = files("${folder}/*.yml")*.baseName.sort()
    if( !(study in names) ) {
        error("unknown study '${study}'${nearest(study, names)}; known: ${names.join(', ')}; or give the path of a .yml file")
    }
    return file("${folder}/${study}.yml")
}

// A plan whose files are paths instead of names.
// A sheet names files relative to its own folder, the command line (--base) relative to the launch folder.
def located(plan, sheetFolder, launchFolder) {
    def folder = sheetFolder ?: launchFolder
    def place = { name -> name ==~ /^[a-z0-9]+:\/\/.*/ ? file(name, glob: false) : folder.resolve(name).normalize() }
    return plan + [
        sheet_folder: sheetFolder,
        datasets: plan.datasets.collect { entry -> entry + [file: entry.file ? place.call(entry.file) : null] },
        views: plan.views.collect { entry -> entry + [file: entry.file ? place.call(entry.file) : null] },
        runs: plan.runs.collect { entry ->
            entry + [model: entry.model ? place.call(entry.model) : null, recon: entry.recon ? place.call(entry.recon) : null]
        },
    ]
}

// Scans and views of a located plan that were given, by id, as the run's own sheets call them: relative to the sheets' folder,
// or a URI where they lie in another kind of storage.
def givenFiles(plan, sheets) {
    def name = { path ->
        path.fileSystem == sheets.fileSystem ? sheets.toAbsolutePath().normalize().relativize(path).toString() : path.toUriString()
    }
    def ready = plan.datasets.findAll { dataset -> dataset.kind == 'ready' }
    def views = plan.views.findAll { view -> view.file }
    return [datasets: ready, views: views].collectEntries { kind, entries -> [kind, entries.collectEntries { one -> [one.id, name.call(one.file)] }] }
}

// What is wrong with the input files of a located plan, all at once; null when nothing is. The caller ends the run: an error()
// thrown here, called from an operator of another script, would reach the user as an InvocationTargetException.
def missingFiles(plan) {
    def files = (plan.datasets + plan.views).collect { one -> [one.id, one.file] } +
        plan.runs.collectMany { run -> [[run.run_id, run.model], [run.run_id, run.recon]] }
    def located = files.findAll { _owner, path -> path }
    def unusable = located.collect { owner, path -> [owner, unusableName(path) ?: leadsOut(path, plan.sheet_folder)] }
    def blocks = [
        'not found': located.findAll { _owner, path -> !unusableName(path) && !path.exists() },
        'not usable': unusable.findAll { _owner, fault -> fault }.unique(),
    ]
    def texts = blocks.findAll { _title, rows -> rows }.collect { title, rows ->
        "${rows.size()} input file(s) ${title}:\n" + rows.collect { owner, text -> "  - ${owner}: ${text}" }.join('\n')
    }
    return texts.join('\n') ?: null
}

// Rows of a tab-separated file with a header, as maps; none when there is no such file.
def tableRows(path) {
    if( !path?.exists() ) {
        return []
    }
    def lines = path.readLines()
    def names = lines ? lines.head().split('\t', -1).toList() : []
    return lines.drop(1).collect { line -> [names, line.split('\t', -1).toList()].transpose().collectEntries { pair -> pair } }
}

// Why the run as a whole failed although every task is accounted for, or null.
def verdict(table, minSuccess, failOnArmError) {
    def states = tableRows(table).countBy { row -> row.state }
    def ok = states.getOrDefault('ok', 0)
    def lost = states.getOrDefault('failed', 0) + states.getOrDefault('missing', 0)
    if( ok < minSuccess ) {
        return "${ok} runs ended ok, --min_success asks for ${minSuccess}"
    }
    return failOnArmError && lost ? "${lost} runs failed or are missing, and --fail_on_arm_error was given" : null
}

// The table of a run that ended before COLLECT could write it: every planned run has a row.
def writeFallbackTable(plan, path) {
    def missing = plan.runs.collect { run -> [run.run_id, 'missing', 'the workflow ended before its results were collected'] }
    def skipped = plan.skipped.collect { run -> [run.run_id, 'skipped', run.reason] }
    path.parent.mkdirs()
    def rows = [['run_id', 'state', 'reason']] + missing + skipped
    path.text = rows.collect { row -> row.join('\t') + '\n' }.join('')
}

// What every process of a trace ran in, in words: its image, with the digest that containers.lock.json has of it.
def containersOf(trace, engine, lock) {
    def digests = lock.exists() ? readJson(lock).images.values().collectEntries { one -> [one.image, one.digest] } : [:]
    def digest = { image -> image.contains('@sha256:') ? '' : ", digest ${digests[image] ?: 'not recorded: built on this machine'}" }
    def named = { image -> image in [null, '', '-'] || !engine ? 'no container' : "${image}${digest.call(image)}" }
    return tableRows(trace).collectEntries { row -> [row.process.tokenize(':').last(), named.call(row.container)] }.sort()
}

// Versions of the workflow, containers by process, and what the tasks of each process loaded: COLLECT's part, which a run that
// ended before it has not.
def writeVersions(path, workflow, containers, processes) {
    def block = { title, values -> [title + ':'] + values.collect { name, value -> "  ${name}: '${value}'" } }
    path.parent.mkdirs()
    path.text = (block.call('workflow', workflow) + block.call('containers', containers)).join('\n') + '\n' + (processes ? processes.text : '')
}

// What a user reads at the end when a disk is full, or null. What failed first may have been any file of any task, and
// nothing more can be written: no table, no report.
def fullDisk(folders) {
    def local = folders.findAll { folder -> folder.fileSystem == java.nio.file.FileSystems.default && folder.exists() }
    def full = local.findAll { folder -> java.nio.file.Files.getFileStore(folder).usableSpace < 65_536 }
    return full ? "\nThe disk is full: ${full.join(', ')}. Free some of it, then continue with -resume." : null
}

// What a user reads at the end: one line a run, where lost tasks can be looked at, how to go on.
def completionTable(table, trace, outdir) {
    def rows = tableRows(table).collect { row -> row.subMap(['run_id', 'state', 'reason']).collectEntries { k, v -> [k, v ?: ''] } }
    def width = (rows*.run_id*.size() + [6]).max()
    def lines = rows.collect { row -> "${row.run_id.padRight(width)}  ${row.state.padRight(8)} ${row.reason}".trim() }
    // A retried task has one row per attempt; the trace is complete up to a late last line.
    def last = tableRows(trace).inject([:]) { all, row -> all + [(row.name): row] }
    def lost = last.values().findAll { row -> row.status in ['FAILED', 'ABORTED'] && !row.process.endsWith('CHECK_OUTCOME') }
    def tasks = lost.collect { row -> "${row.name}: exit ${row.exit}, attempt ${row.attempt}, see ${row.workdir}/.command.err" }
    def advice = tasks ? ['', 'Tasks that failed:'] + tasks + ['Cause repaired? Continue with -resume.'] : []
    def head = ['', 'run_id'.padRight(width) + '  state    reason']
    def foot = ['', "Tables and report: ${outdir}/summary"]
    return (head + lines + advice + foot).join('\n')
}
